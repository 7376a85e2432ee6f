import { access, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { isProfileLoaded } from './apparmor.ts';
import { CAPABILITIES } from './capabilities.ts';
import type { SelinuxPolicy } from './selinux-label.ts';

/** What this host and the daemon's own rights allow a container to have. Read once at start; none of it changes while the daemon runs. */
export interface HostFacts {
  /** What the daemon may give away, names with `CAP_`, in the kernel's order. */
  readonly capabilities: readonly string[];
  /** The daemon's own oom_score_adj. */
  readonly oomScoreAdj: number;
  /** With CAP_SYS_RESOURCE a child may have a lower oom_score_adj than the daemon. */
  readonly canLowerOomScore: boolean;
  readonly seccomp: boolean;
  readonly apparmor: boolean;
  /** The profile of who asks for none; absent until it is loaded. */
  readonly apparmorDefault?: string;
  readonly isProfileLoaded: (name: string) => boolean;
  readonly selinux: boolean;
  /** What containers are labelled by; absent where they are not. */
  readonly selinuxPolicy?: SelinuxPolicy;
  /** Why they are not, where the kernel has SELinux and nobody has switched it off. */
  readonly selinuxProblem?: string;
  readonly cgroupV2: boolean;
  /** As the CRI writes them (`2MB`, `1GB`); empty where the hugetlb controller is missing. */
  readonly hugepageSizes: readonly string[];
  /** The kernel accounts swap by cgroup. */
  readonly swap: boolean;
  /** This machine's own, such as `SCMP_ARCH_X86_64`. */
  readonly seccompArchitecture: string;
}

/** libseccomp's names of Node's architectures that Berth is shipped for, and of those it may be built for. Source: seccomp.h. */
const SECCOMP_ARCHITECTURES: Readonly<Partial<Record<NodeJS.Architecture, string>>> = {
  x64: 'SCMP_ARCH_X86_64',
  arm64: 'SCMP_ARCH_AARCH64',
  ppc64: 'SCMP_ARCH_PPC64LE',
  s390x: 'SCMP_ARCH_S390X',
  riscv64: 'SCMP_ARCH_RISCV64',
};

/** @param root where /proc and /sys are looked for; tests give a directory of their own. */
export async function readHostFacts(root = '/'): Promise<HostFacts> {
  const status = await readFile(join(root, 'proc/self/status'), 'utf8');
  const bounding = statusMask(status, 'CapBnd') & statusMask(status, 'CapPrm');
  const capabilities = CAPABILITIES.filter((_name, bit) => (bounding >> BigInt(bit)) & 1n);
  const cgroupV2 = await exists(join(root, 'sys/fs/cgroup/cgroup.controllers'));
  return {
    capabilities,
    oomScoreAdj: Number(await readFile(join(root, 'proc/self/oom_score_adj'), 'utf8')),
    canLowerOomScore: capabilities.includes('CAP_SYS_RESOURCE'),
    seccomp: /^Seccomp:/m.test(status),
    apparmor: (await readText(join(root, 'sys/module/apparmor/parameters/enabled'))).trim() === 'Y',
    isProfileLoaded: (name) => isProfileLoaded(name),
    selinux: await exists(join(root, 'sys/fs/selinux/enforce')),
    cgroupV2,
    hugepageSizes: await readHugepageSizes(root, cgroupV2),
    swap: await accountsSwap(root, cgroupV2),
    seccompArchitecture: SECCOMP_ARCHITECTURES[process.arch] ?? '',
  };
}

function statusMask(status: string, key: string): bigint {
  const digits = new RegExp(`^${key}:\\s*([0-9a-f]+)$`, 'm').exec(status)?.[1];
  return digits === undefined ? 0n : BigInt(`0x${digits}`);
}

async function readHugepageSizes(root: string, cgroupV2: boolean): Promise<readonly string[]> {
  const controlled = cgroupV2
    ? (await readText(join(root, 'sys/fs/cgroup/cgroup.controllers'))).split(/\s+/).includes('hugetlb')
    : await exists(join(root, 'sys/fs/cgroup/hugetlb'));
  if (!controlled) return [];
  const names = await readNames(join(root, 'sys/kernel/mm/hugepages'));
  const sizes = names.map((name) => Number(/^hugepages-(\d+)kB$/.exec(name)?.[1])).filter((kib) => kib > 0);
  return sizes.sort((a, b) => a - b).map(hugepageName);
}

/** The names that the kernel's hugetlb controller uses for its files. Source: mm/hugetlb_cgroup.c, mem_fmt(). */
function hugepageName(kib: number): string {
  if (kib >= 1 << 20) return `${kib / (1 << 20)}GB`;
  return kib >= 1 << 10 ? `${kib / (1 << 10)}MB` : `${kib}KB`;
}

async function accountsSwap(root: string, cgroupV2: boolean): Promise<boolean> {
  if (!cgroupV2) return await exists(join(root, 'sys/fs/cgroup/memory/memory.memsw.limit_in_bytes'));
  // The root cgroup has no memory.swap.max: ask the daemon's own, and where that has no memory controller the usual ones.
  const own = /^0::(.*)$/m.exec(await readText(join(root, 'proc/self/cgroup')))?.[1] ?? '/';
  for (const cgroup of [own, join(own, '..'), 'system.slice', 'kubepods.slice', 'kubepods', 'init.scope']) {
    if (await exists(join(root, 'sys/fs/cgroup', cgroup, 'memory.swap.max'))) return true;
  }
  return false;
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

async function readText(path: string): Promise<string> {
  return await readFile(path, 'utf8').catch(absentAs(''));
}

async function readNames(path: string): Promise<readonly string[]> {
  return await readdir(path).catch(absentAs<readonly string[]>([]));
}

function absentAs<T>(value: T): (err: unknown) => T {
  return (err) => {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return value;
    throw err;
  };
}
