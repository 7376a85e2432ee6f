import { join } from 'node:path';
import { limitOf, readCgroupFile } from './cgroup-file.ts';
import type { CgroupHierarchy } from './cgroup-hierarchy.ts';

/** One line of a pressure file. Source: Documentation/accounting/psi.rst. */
export interface PressureLine {
  /** Share of the last 10, 60 and 300 s in percent. */
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  /** Microseconds since the cgroup was made. */
  readonly totalUs: bigint;
}

export interface Pressure {
  readonly some: PressureLine;
  /** Absent for the CPU of kernels before 5.13. */
  readonly full: PressureLine | undefined;
}

/** What a cgroup uses, its children included. Bytes are numbers: no machine has 2^53 of them. */
export interface CgroupStats {
  /** When it was read, in nanoseconds since 1970. */
  readonly timestampNs: bigint;
  /** CPU time since the cgroup was made. */
  readonly cpuUsageNs: bigint;
  readonly memory: {
    readonly usageBytes: number;
    /** Usage without the page cache that nobody has touched lately, which the kernel takes back first. */
    readonly workingSetBytes: number;
    readonly rssBytes: number;
    readonly pageFaults: number;
    readonly majorPageFaults: number;
    /** `undefined` without a limit. */
    readonly limitBytes: number | undefined;
    /** Limit less working set; `undefined` without a limit. */
    readonly availableBytes: number | undefined;
  };
  readonly swap: {
    readonly usageBytes: number;
    /** `undefined` without a limit, or where the kernel does not account for swap. */
    readonly availableBytes: number | undefined;
  };
  /** Tasks as the pids controller counts them: threads too. */
  readonly pids: number;
  /** Version 2 only. */
  readonly psi: { readonly cpu: Pressure | undefined; readonly memory: Pressure | undefined; readonly io: Pressure | undefined } | undefined;
}

/** Reads a cgroup's files side by side; `undefined` once it is gone. A controller that is not there counts as 0. */
export async function readStats(hierarchy: CgroupHierarchy, path: string): Promise<CgroupStats | undefined> {
  return hierarchy.version === 2 ? readStatsV2(hierarchy, path) : readStatsV1(hierarchy, path);
}

/** Under systemd and version 2 crun puts the container, and its limits, one level below the scope. Source: crun(1), run.oci.systemd.subgroup. */
export const CRUN_SUBGROUP = 'container';

/** Source: Documentation/admin-guide/cgroup-v2.rst. */
async function readStatsV2({ mounts }: CgroupHierarchy, path: string): Promise<CgroupStats | undefined> {
  const dir = join(mounts.get('unified') ?? '', path);
  const [cpu, current, stat, max, swapCurrent, swapMax, pids, cpuPsi, memoryPsi, ioPsi] = await Promise.all([
    readCgroupFile(dir, 'cpu.stat'),
    readCgroupFile(dir, 'memory.current'),
    readCgroupFile(dir, 'memory.stat'),
    readCgroupFile(dir, 'memory.max'),
    readCgroupFile(dir, 'memory.swap.current'),
    readCgroupFile(dir, 'memory.swap.max'),
    readCgroupFile(dir, 'pids.current'),
    readCgroupFile(dir, 'cpu.pressure'),
    readCgroupFile(dir, 'memory.pressure'),
    readCgroupFile(dir, 'io.pressure'),
  ]);
  if (cpu === undefined) return undefined; // cpu.stat is in every cgroup, whatever its controllers
  const memory = flatKeyed(stat);
  const swapUsage = Number(swapCurrent ?? 0);
  const swapLimit = limitOf(swapMax) ?? limitOf(await readCgroupFile(join(dir, CRUN_SUBGROUP), 'memory.swap.max'));
  return {
    timestampNs: now(),
    cpuUsageNs: BigInt(flatKeyed(cpu).get('usage_usec') ?? '0') * 1000n,
    memory: memoryStats({
      usage: Number(current ?? 0),
      inactiveFile: Number(memory.get('inactive_file') ?? 0),
      rss: Number(memory.get('anon') ?? 0),
      faults: Number(memory.get('pgfault') ?? 0),
      majorFaults: Number(memory.get('pgmajfault') ?? 0),
      limitBytes: limitOf(max) ?? limitOf(await readCgroupFile(join(dir, CRUN_SUBGROUP), 'memory.max')),
    }),
    swap: { usageBytes: swapUsage, availableBytes: swapLimit === undefined ? undefined : Math.max(0, swapLimit - swapUsage) },
    pids: Number(pids ?? 0),
    psi: { cpu: pressure(cpuPsi), memory: pressure(memoryPsi), io: pressure(ioPsi) },
  };
}

/** Source: Documentation/admin-guide/cgroup-v1/memory.rst, cpuacct.rst, pids.rst. */
async function readStatsV1({ mounts }: CgroupHierarchy, path: string): Promise<CgroupStats | undefined> {
  const at = (controller: string): string => join(mounts.get(controller) ?? '/nonexistent', path);
  const [cpu, usage, stat, max, memoryAndSwap, memoryAndSwapMax, pids] = await Promise.all([
    readCgroupFile(at('cpuacct'), 'cpuacct.usage'),
    readCgroupFile(at('memory'), 'memory.usage_in_bytes'),
    readCgroupFile(at('memory'), 'memory.stat'),
    readCgroupFile(at('memory'), 'memory.limit_in_bytes'),
    readCgroupFile(at('memory'), 'memory.memsw.usage_in_bytes'),
    readCgroupFile(at('memory'), 'memory.memsw.limit_in_bytes'),
    readCgroupFile(at('pids'), 'pids.current'),
  ]);
  if (cpu === undefined && usage === undefined) return undefined;
  // The total_ lines count the children too, as the usage does.
  const memory = flatKeyed(stat);
  const limitBytes = limitOf(max);
  // The two usages are read at two moments, so their difference may be a little below zero.
  const swapUsage = memoryAndSwap === undefined ? 0 : Math.max(0, Number(memoryAndSwap) - Number(usage ?? 0));
  const bothLimit = limitOf(memoryAndSwapMax);
  const swapLimit = bothLimit === undefined || limitBytes === undefined ? undefined : Math.max(0, bothLimit - limitBytes);
  return {
    timestampNs: now(),
    cpuUsageNs: BigInt((cpu ?? '0').trim()),
    memory: memoryStats({
      usage: Number(usage ?? 0),
      inactiveFile: Number(memory.get('total_inactive_file') ?? 0),
      rss: Number(memory.get('total_rss') ?? 0),
      faults: Number(memory.get('total_pgfault') ?? 0),
      majorFaults: Number(memory.get('total_pgmajfault') ?? 0),
      limitBytes,
    }),
    swap: { usageBytes: swapUsage, availableBytes: swapLimit === undefined ? undefined : Math.max(0, swapLimit - swapUsage) },
    pids: Number(pids ?? 0),
    psi: undefined,
  };
}

function memoryStats(raw: {
  readonly usage: number;
  readonly inactiveFile: number;
  readonly rss: number;
  readonly faults: number;
  readonly majorFaults: number;
  readonly limitBytes: number | undefined;
}): CgroupStats['memory'] {
  const workingSetBytes = Math.max(0, raw.usage - raw.inactiveFile);
  return {
    usageBytes: raw.usage,
    workingSetBytes,
    rssBytes: raw.rss,
    pageFaults: raw.faults,
    majorPageFaults: raw.majorFaults,
    limitBytes: raw.limitBytes,
    availableBytes: raw.limitBytes === undefined ? undefined : Math.max(0, raw.limitBytes - workingSetBytes),
  };
}

function now(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** `key value` lines. */
function flatKeyed(text: string | undefined): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const line of text?.split('\n') ?? []) {
    const blank = line.indexOf(' ');
    if (blank > 0) values.set(line.slice(0, blank), line.slice(blank + 1));
  }
  return values;
}

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full` alike. */
function pressure(text: string | undefined): Pressure | undefined {
  const line = (kind: 'some' | 'full'): PressureLine | undefined => {
    const match = new RegExp(`^${kind} avg10=([\\d.]+) avg60=([\\d.]+) avg300=([\\d.]+) total=(\\d+)`, 'm').exec(text ?? '');
    if (match === null) return undefined;
    return { avg10: Number(match[1]), avg60: Number(match[2]), avg300: Number(match[3]), totalUs: BigInt(match[4] ?? 0) };
  };
  const some = line('some');
  return some === undefined ? undefined : { some, full: line('full') };
}
