import { basename, dirname, join } from 'node:path';
import { limitOf, readCgroupFile } from './cgroup-file.ts';
import { childDirs } from './cgroup-fs.ts';
import type { CgroupHierarchy } from './cgroup-hierarchy.ts';
import { CRUN_SUBGROUP } from './cgroup-stats.ts';

/** A memory limit that was reached. */
export interface ReachedLimit {
  /** Path of the cgroup that has it, below the hierarchy. */
  readonly path: string;
  readonly limitBytes: number | undefined;
  /** Most that the cgroup has used; `undefined` where the kernel does not tell (version 2 before Linux 5.19). */
  readonly peakBytes: number | undefined;
}

/**
 * Processes of a cgroup that the OOM killer has killed; `undefined` once it is gone. With version 2 its children's count
 * too. The systemd driver's scope goes with its last process, so ask while it lives or take the monitor's word.
 */
export async function readOomKills({ version, mounts }: CgroupHierarchy, path: string): Promise<number | undefined> {
  const text =
    version === 2
      ? await readCgroupFile(join(mounts.get('unified') ?? '', path), 'memory.events')
      : await readCgroupFile(join(mounts.get('memory') ?? '', path), 'memory.oom_control');
  return text === undefined ? undefined : keyed(text, 'oom_kill');
}

/**
 * Processes that the OOM killer has killed in cgroups beside `path` that are gone now, `path` itself counted as gone: what
 * the cgroup above has counted (version 2 counts upwards) and no cgroup there accounts for. A scope goes with its last
 * process, often before the monitor can read its count; this count stays. `undefined` with version 1, and where no cgroup is above.
 */
export async function readLostOomKills(hierarchy: CgroupHierarchy, path: string): Promise<number | undefined> {
  const above = dirname(path);
  const total = hierarchy.version === 2 && above !== '/' ? await readOomKills(hierarchy, above) : undefined;
  if (total === undefined || total === 0) return total;
  const others = (await childDirs(join(hierarchy.mounts.get('unified') ?? '', above))).map((dir) => join(above, basename(dir)));
  const counts = await Promise.all(others.map(async (other) => (other === path ? 0 : ((await readOomKills(hierarchy, other)) ?? 0))));
  return total - counts.reduce((sum, count) => sum + count, 0);
}

/** How often a cgroup's own limit has led to the OOM killer; `undefined` with version 1, which does not tell, and once it is gone. */
export async function readOwnOoms({ version, mounts }: CgroupHierarchy, path: string): Promise<number | undefined> {
  if (version === 1) return undefined;
  const text = await readCgroupFile(join(mounts.get('unified') ?? '', path), 'memory.events.local');
  return text === undefined ? undefined : keyed(text, 'oom');
}

/**
 * The innermost memory limit that has made the kernel kill, of a cgroup and those above it; `undefined` when none has: then
 * the node itself was out of memory. Version 2 counts for each limit; version 1 tells those that have been reached.
 */
export async function findReachedLimit(hierarchy: CgroupHierarchy, path: string): Promise<ReachedLimit | undefined> {
  for (let level = path; level !== '/' && level !== '.'; level = dirname(level)) {
    const reached = hierarchy.version === 2 ? await reachedV2(hierarchy, level) : await reachedV1(hierarchy, level);
    if (reached !== undefined) return reached;
  }
  return undefined;
}

/** Source: Documentation/admin-guide/cgroup-v2.rst, memory.events.local. */
async function reachedV2(hierarchy: CgroupHierarchy, path: string): Promise<ReachedLimit | undefined> {
  for (const level of [path, join(path, CRUN_SUBGROUP)]) {
    if (((await readOwnOoms(hierarchy, level)) ?? 0) === 0) continue;
    const dir = join(hierarchy.mounts.get('unified') ?? '', level);
    return { path, limitBytes: limitOf(await readCgroupFile(dir, 'memory.max')), peakBytes: limitOf(await readCgroupFile(dir, 'memory.peak')) };
  }
  return undefined;
}

/** The largest usage comes up to the limit less what one failed charge would have taken. Source: Documentation/admin-guide/cgroup-v1/memory.rst. */
const CHARGE_BYTES = 64 * 4096;

async function reachedV1({ mounts }: CgroupHierarchy, path: string): Promise<ReachedLimit | undefined> {
  const dir = join(mounts.get('memory') ?? '', path);
  // Where memory may not be swapped both limits are equal, and the one of both together is asked first.
  for (const counter of ['memory', 'memory.memsw']) {
    const limitBytes = limitOf(await readCgroupFile(dir, `${counter}.limit_in_bytes`));
    const peakBytes = limitOf(await readCgroupFile(dir, `${counter}.max_usage_in_bytes`));
    // failcnt, which ought to tell, stays 0 with some kernels (seen with Linux 6.18).
    if (limitBytes !== undefined && peakBytes !== undefined && peakBytes >= limitBytes - CHARGE_BYTES) return { path, limitBytes, peakBytes };
  }
  return undefined;
}

/** The value of one of the `key value` lines; 0 without it. */
function keyed(text: string, key: string): number {
  return Number(new RegExp(`^${key} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
}
