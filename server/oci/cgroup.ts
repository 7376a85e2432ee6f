import { createCgroup, killAll, moveProcess, procs, removeCgroup } from './cgroup-fs.ts';
import type { CgroupHierarchy } from './cgroup-hierarchy.ts';
import { readLimits, setLimits } from './cgroup-limits.ts';
import { findReachedLimit, type ReachedLimit, readLostOomKills, readOomKills, readOwnOoms } from './cgroup-oom.ts';
import { createParentCgroups } from './cgroup-parents.ts';
import { type CgroupStats, readStats } from './cgroup-stats.ts';
import { type ExecCgroups, NO_EXEC_CGROUPS } from './exec-cgroup.ts';

/**
 * The cgroups of this machine, as files. Paths are absolute below every hierarchy, as `containerCgroup` makes them;
 * containers' cgroups themselves are made by the OCI runtime.
 */
export interface Cgroups {
  readonly hierarchy: CgroupHierarchy;
  /** Those of commands that are executed in containers. */
  readonly execs: ExecCgroups;
  /** Makes a cgroup, and those above it that are missing, in every hierarchy. */
  create(path: string): Promise<void>;
  /** Removes a cgroup and those below it. What is gone counts as removed; EBUSY while there are processes in it. */
  remove(path: string): Promise<void>;
  /**
   * The topmost level of `path` that was not there before Berth, itself included: the OCI runtime makes it with the pod's
   * first container and leaves it behind. `undefined` when all was there, as with the kubelet's pods. Ask before the pod's
   * first container is made, keep the answer with the sandbox, and hand it to `removeEmpty` in the end.
   */
  firstMissing(path: string): Promise<string | undefined>;
  /** Makes an earlier answer of `firstMissing` known again after a restart, so that later pods below it get it too. */
  adopt(path: string, topmost: string): void;
  /** Removes `path` and the levels above it up to `topmost`, each only when it is empty: what others use stays. */
  removeEmpty(path: string, topmost: string): Promise<void>;
  /** Processes in a cgroup and those below it; none when it is gone. Synchronous: microseconds. */
  procs(path: string): readonly number[];
  /**
   * Kills everything in a cgroup and below it, and waits until it is empty (default limit 10 s). Success when it is gone.
   * @throws {CriError} `deadlineExceeded` when some processes wait in the kernel and do not die.
   */
  kill(path: string, options: { readonly signal: AbortSignal; readonly timeoutMs?: number }): Promise<void>;
  /** Moves a process into an existing cgroup. ESRCH when it is gone. */
  moveProcess(path: string, pid: number): Promise<void>;
  /** What those of a container's files hold now that are there, by their names, such as `memory.max`. */
  limits(path: string, files: Iterable<readonly [file: string, unknown]>): Promise<ReadonlyMap<string, string>>;
  /** Writes a container's files that have a content here; see `setLimits`. */
  setLimits(path: string, files: ReadonlyMap<string, string | undefined>): Promise<void>;
  /** What a cgroup uses, from its files; `undefined` once it is gone. */
  stats(path: string): Promise<CgroupStats | undefined>;
  /** Processes that the OOM killer has killed in it; `undefined` once it is gone. */
  oomKills(path: string): Promise<number | undefined>;
  /** Those killed in cgroups beside `path` that are gone, itself counted as gone; see `readLostOomKills`. */
  lostOomKills(path: string): Promise<number | undefined>;
  /** How often its own limit has led to the OOM killer; see `readOwnOoms`. */
  ownOoms(path: string): Promise<number | undefined>;
  /** The innermost limit that has made the kernel kill, from `path` upwards; see `findReachedLimit`. */
  reachedLimit(path: string): Promise<ReachedLimit | undefined>;
}

export function createCgroups(hierarchy: CgroupHierarchy, execs: ExecCgroups = NO_EXEC_CGROUPS): Cgroups {
  return {
    hierarchy,
    execs,
    create: (path) => createCgroup(hierarchy, path),
    remove: (path) => removeCgroup(hierarchy, path),
    ...createParentCgroups(hierarchy),
    procs: (path) => procs(hierarchy, path),
    kill: (path, { signal, timeoutMs = 10_000 }) => killAll(hierarchy, path, { signal, timeoutMs }),
    moveProcess: (path, pid) => moveProcess(hierarchy, path, pid),
    limits: (path, files) => readLimits(hierarchy, path, files),
    setLimits: (path, files) => setLimits(hierarchy, path, files),
    stats: (path) => readStats(hierarchy, path),
    oomKills: (path) => readOomKills(hierarchy, path),
    lostOomKills: (path) => readLostOomKills(hierarchy, path),
    ownOoms: (path) => readOwnOoms(hierarchy, path),
    reachedLimit: (path) => findReachedLimit(hierarchy, path),
  };
}
