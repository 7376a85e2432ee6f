import { closeSync, openSync, readSync } from 'node:fs';
import { endianness } from 'node:os';

/** What a machine runs, in the words of Go, as manifests have them. */
export interface Platform {
  readonly os: string;
  /** `amd64`, `arm64`, `ppc64le`. */
  readonly architecture: string;
  /** The variants that run here, best first; '' stands for an image that names none. */
  readonly variants: readonly string[];
}

/** Flags of /proc/cpuinfo that each level of amd64 wants beside those below it. Source: x86-64 psABI, "Micro-architecture levels". */
const AMD64_LEVELS: readonly (readonly string[])[] = [
  ['cx16', 'lahf_lm', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3'],
  ['abm', 'avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'movbe', 'xsave'],
  ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'],
];

/** The platform whose images this machine runs. */
export function hostPlatform(): Platform {
  const os = 'linux';
  switch (process.arch) {
    case 'x64':
      return { os, architecture: 'amd64', variants: amd64Variants(firstProcessor()) };
    case 'arm64':
      return { os, architecture: 'arm64', variants: ['v8', ''] };
    case 'arm':
      return { os, architecture: 'arm', variants: armVariants() };
    case 'ia32':
      return { os, architecture: '386', variants: [''] };
    case 'ppc64':
      return { os, architecture: endianness() === 'LE' ? 'ppc64le' : 'ppc64', variants: [''] };
    default:
      return { os, architecture: process.arch, variants: [''] };
  }
}

/** What a processor with these flags runs, best first: `v3`, `v2`, and what says v1 or nothing. */
export function amd64Variants(flags: ReadonlySet<string>): string[] {
  let level = 1;
  for (const wanted of AMD64_LEVELS) {
    if (!wanted.every((flag) => flags.has(flag))) break;
    level += 1;
  }
  return [...Array.from({ length: level }, (_, index) => `v${level - index}`), ''];
}

/** A build of Node runs on its own level or above. */
function armVariants(): string[] {
  const version = Number((process.config.variables as unknown as Record<string, unknown>).arm_version) || 7;
  return [...[7, 6, 5].filter((each) => each <= version).map((each) => `v${each}`), ''];
}

/** The flags of the first processor. The file is one block for each: only the beginning is read. */
function firstProcessor(): Set<string> {
  try {
    const fd = openSync('/proc/cpuinfo', 'r');
    try {
      const bytes = Buffer.alloc(8_192);
      const text = bytes.toString('latin1', 0, readSync(fd, bytes));
      return new Set(/^flags\s*:(.*)$/m.exec(text)?.[1]?.trim().split(' '));
    } finally {
      closeSync(fd);
    }
  } catch {
    return new Set(); // then it runs what any amd64 runs
  }
}

/** `linux/amd64`, `linux/arm/v7`: a variant is told where there is no common ground without it. */
export function formatPlatform({ os, architecture, variants }: Platform): string {
  return `${os}/${architecture}${architecture === 'arm' ? `/${variants[0] ?? ''}` : ''}`;
}

/** How well an image for `offered` runs on `host`: 0 is best, `undefined` not at all. */
export function platformRank(offered: { os: unknown; architecture: unknown; variant: unknown }, host: Platform): number | undefined {
  if (offered.os !== host.os || offered.architecture !== host.architecture) return undefined;
  const rank = host.variants.indexOf(typeof offered.variant === 'string' ? offered.variant : '');
  return rank < 0 ? undefined : rank;
}
