import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { MNT, mount, umount } from '#base/sys.ts';
import { killOne, procsBelow, removeTree } from './cgroup-fs.ts';
import type { CgroupHierarchy } from './cgroup-hierarchy.ts';
import { CRUN_SUBGROUP } from './cgroup-stats.ts';

/** The cgroup of one command that is executed in a container. Only privilege gets what it starts out of it. Disposing of it frees it. */
export interface ExecCgroup extends Disposable {
  /** Its name below the container's; empty where there is none. */
  readonly name: string;
  /** What the OCI runtime's `exec` is told, so that it puts the command there. */
  readonly runtimeArgs: readonly string[];
  /** Moves the OCI runtime, or its monitor, there before it begins: the command is then born there. Success when it is gone. */
  readonly place?: ((pid: number) => Promise<void>) | undefined;
  /** Synchronous: microseconds. */
  procs(): readonly number[];
}

export const NO_EXEC_CGROUP: ExecCgroup = { name: '', runtimeArgs: [], procs: () => [], [Symbol.dispose]: () => {} };

/** A container whose commands get cgroups. */
export interface ExecutingContainer {
  readonly id: string;
  /** Path of its cgroup below the hierarchy. */
  readonly cgroup: string;
  /** Whether its OCI runtime knows `exec --cgroup`. */
  readonly byRuntime: boolean;
}

/**
 * Cgroups for commands that are executed in containers. A container keeps those that it has needed at one time, and the
 * next command gets one that is empty: whoever watches cgroups (the kubelet's cAdvisor does) would otherwise be told of
 * two changes for every probe. They are never killed by `cgroup.kill`: what crun starts in a cgroup that has been, dies (seen
 * with crun 1.8.1 and Linux 6.18).
 */
export interface ExecCgroups extends Disposable {
  /** True where `byRuntime` decides whether there are any. */
  readonly needRuntime: boolean;
  /** An empty one; `NO_EXEC_CGROUP` where the runtime or the kernel cannot. */
  take(container: ExecutingContainer): ExecCgroup;
  /** One that a dead daemon had taken, by its name. */
  find(container: ExecutingContainer, name: string): ExecCgroup;
  /** Removes all of a container that has ended, and kills what is still in them. */
  remove(id: string): Promise<void>;
}

export const NO_EXEC_CGROUPS: ExecCgroups = {
  needRuntime: false,
  take: () => NO_EXEC_CGROUP,
  find: () => NO_EXEC_CGROUP,
  remove: async () => {},
  [Symbol.dispose]: () => {},
};

/**
 * With version 2 they lie below the container's cgroup, without controllers: limits and accounts stay the container's, and
 * the OCI runtime puts the command there (`--cgroup`). Version 1 gets a hierarchy without controllers of its own, in which
 * the runtime is put before it begins: of crun's option it would leave all other hierarchies out (seen with 1.8.1), and what
 * counts and limits is not divided. Nothing of it is mounted where anybody sees it. It goes with the last daemon that has it.
 * @param mountPoint is made, used for a moment, and removed.
 * @throws {SysError} where the kernel has no such hierarchies (`cgroup_no_v1=named`).
 */
export function openExecCgroups(hierarchy: CgroupHierarchy, mountPoint: string): ExecCgroups {
  if (hierarchy.version === 2) return new OwnCgroups(belowContainer(hierarchy.mounts.get('unified') ?? ''), true);
  const root = openNamed(mountPoint);
  return new OwnCgroups(inNamed(`/proc/self/fd/${root}`), false, () => closeSync(root));
}

/** Where the cgroups for commands are, and how a command gets into one. */
interface Home {
  /** The directory above those of a container, which is there then; `undefined` where it can have none. */
  above(container: ExecutingContainer): string | undefined;
  /** What goes with the container, where nobody else removes it. */
  ownOf(id: string): string | undefined;
  isUsable(dir: string): boolean;
  entrance(dir: string, name: string): Pick<ExecCgroup, 'runtimeArgs' | 'place'>;
}

const belowContainer = (root: string): Home => ({
  above: ({ cgroup, byRuntime }) => {
    if (!byRuntime) return undefined;
    const below = join(root, cgroup, CRUN_SUBGROUP);
    return existsSync(below) ? below : join(root, cgroup);
  },
  ownOf: () => undefined,
  // A threaded one, and one whose controllers a privileged command has passed on, takes no process. Source: cgroup-v2.rst.
  isUsable: (dir) =>
    readFileSync(join(dir, 'cgroup.type'), 'latin1').trim() === 'domain' && readFileSync(join(dir, 'cgroup.subtree_control'), 'latin1').trim() === '',
  entrance: (_dir, name) => ({ runtimeArgs: [`--cgroup=/${name}`] }),
});

const inNamed = (root: string): Home => ({
  above: ({ id }) => {
    mkdirSync(join(root, id), { recursive: true });
    return join(root, id);
  },
  ownOf: (id) => join(root, id),
  isUsable: () => true,
  entrance: (dir) => ({ runtimeArgs: [], place: (pid) => moveInto(dir, pid) }),
});

async function moveInto(dir: string, pid: number): Promise<void> {
  try {
    await writeFile(join(dir, 'cgroup.procs'), String(pid));
  } catch (err) {
    if (!isErrno(err, 'ESRCH', 'ENOENT', 'ENODEV')) throw err; // the process has gone, or the container
  }
}

/** A descriptor of the hierarchy's root. The hierarchy lives as long as it is open, or has cgroups. */
function openNamed(mountPoint: string): number {
  mkdirSync(mountPoint, { recursive: true, mode: 0o700 });
  try {
    mount('none', mountPoint, 'cgroup', 0, 'none,name=berth');
    try {
      return openSync(mountPoint, 'r');
    } finally {
      umount(mountPoint, MNT.DETACH | MNT.NOFOLLOW);
    }
  } finally {
    rmdirSync(mountPoint);
  }
}

/** False when it was there. */
function makeNew(dir: string): boolean {
  try {
    mkdirSync(dir);
    return true;
  } catch (err) {
    if (isErrno(err, 'EEXIST')) return false;
    throw err;
  }
}

/** More are in use at a time only where something is wrong: commands beyond are found as where there are no cgroups for them. */
const MAX_PER_CONTAINER = 1_000;

class OwnCgroups implements ExecCgroups {
  readonly needRuntime: boolean;
  readonly #home: Home;
  readonly #close: () => void;
  /** Names by container id. */
  readonly #taken = new Map<string, Set<string>>();

  constructor(home: Home, needRuntime: boolean, close = (): void => {}) {
    this.#home = home;
    this.needRuntime = needRuntime;
    this.#close = close;
  }

  take(container: ExecutingContainer): ExecCgroup {
    const above = this.#home.above(container);
    if (above === undefined) return NO_EXEC_CGROUP;
    const taken = this.#taken.get(container.id) ?? new Set();
    for (let number = 0; number < MAX_PER_CONTAINER; number += 1) {
      const name = `berth-exec-${number}`;
      if (taken.has(name)) continue;
      const state = this.#make(join(above, name));
      if (state === 'refused') break;
      if (state === 'inhabited') continue;
      this.#taken.set(container.id, taken.add(name));
      return this.#at(above, name, () => taken.delete(name));
    }
    return NO_EXEC_CGROUP;
  }

  find(container: ExecutingContainer, name: string): ExecCgroup {
    const above = name === '' ? undefined : this.#home.above(container);
    return above === undefined ? NO_EXEC_CGROUP : this.#at(above, name, () => {});
  }

  async remove(id: string): Promise<void> {
    this.#taken.delete(id);
    const own = this.#home.ownOf(id);
    if (own === undefined || !existsSync(own)) return;
    try {
      await removeTree(own);
    } catch (err) {
      if (!isErrno(err, 'EBUSY', 'ENOTEMPTY')) throw err;
      for (const pid of procsBelow(own)) killOne(pid); // an OCI runtime that hangs
      await removeTree(own);
    }
  }

  [Symbol.dispose](): void {
    this.#close();
  }

  #at(above: string, name: string, free: () => void): ExecCgroup {
    const dir = join(above, name);
    return { name, ...this.#home.entrance(dir, name), procs: () => procsBelow(dir), [Symbol.dispose]: free };
  }

  /** Refused: the container has gone meanwhile, or may have no more cgroups. Inhabited: a command left something in it. */
  #make(dir: string): 'empty' | 'inhabited' | 'refused' {
    try {
      const isNew = makeNew(dir);
      if (this.#home.isUsable(dir)) return isNew || procsBelow(dir).length === 0 ? 'empty' : 'inhabited';
      if (!isNew) return 'inhabited';
      rmdirSync(dir);
    } catch (err) {
      if (!isErrno(err, 'ENOENT', 'ENODEV', 'EAGAIN', 'ENOSPC', 'ENOMEM', 'EBUSY')) throw err;
    }
    return 'refused';
  }
}
