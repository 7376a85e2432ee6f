import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { CriError, isErrno } from '#base/errors.ts';
import { type CgroupHierarchy, mountPoints } from './cgroup-hierarchy.ts';

/** Makes a cgroup, and those above it that are missing, in every hierarchy. */
export async function createCgroup(hierarchy: CgroupHierarchy, path: string): Promise<void> {
  for (const mount of mountPoints(hierarchy)) {
    await mkdir(join(mount, path), { recursive: true });
    if (mount === hierarchy.mounts.get('cpuset')) await fillCpuset(mount, path);
  }
}

/** A v1 cpuset is made empty and takes no process until it has CPUs and memory nodes: those of the one above. */
async function fillCpuset(mount: string, path: string): Promise<void> {
  let dir = mount;
  for (const name of path.split('/').filter((part) => part !== '')) {
    const above = dir;
    dir = join(dir, name);
    for (const file of ['cpuset.cpus', 'cpuset.mems']) {
      if ((await readFile(join(dir, file), 'latin1')).trim() === '') await writeFile(join(dir, file), await readFile(join(above, file), 'latin1'));
    }
  }
}

/** Moves a process, its threads with it, into an existing cgroup, in every hierarchy. @throws ESRCH when it is gone. */
export async function moveProcess(hierarchy: CgroupHierarchy, path: string, pid: number): Promise<void> {
  await Promise.all(mountPoints(hierarchy).map((mount) => writeFile(join(mount, path, 'cgroup.procs'), String(pid))));
}

/** The hierarchy whose word counts for all: one with a controller that every node has. */
export function telling({ version, mounts }: CgroupHierarchy): string {
  if (version === 2) return mounts.get('unified') ?? '';
  return mounts.get('memory') ?? mounts.get('pids') ?? [...mounts.values()][0] ?? '';
}

/**
 * Removes a cgroup and those below it in every hierarchy. What is gone counts as removed; what is busy, since the kernel
 * takes a moment to let go of a dead process, is tried again for about a second.
 * @throws EBUSY while there are processes in it.
 */
export async function removeCgroup(hierarchy: CgroupHierarchy, path: string): Promise<void> {
  refuseRoot(path);
  // Usually the OCI runtime has removed them, and twelve failing calls of version 1 cost more than twelve looks.
  const there = mountPoints(hierarchy)
    .map((mount) => join(mount, path))
    .filter((dir) => existsSync(dir));
  // systemd removes its scopes itself, once they are empty. The kernel tells it so 10 ms after the last change at the earliest, and
  // never of a cgroup that is gone by then: its unit would stay active for good. Source: cgroup_file_notify() in kernel/cgroup/cgroup.c.
  if (path.endsWith('.scope')) await Promise.all(there.map((dir) => gone(dir, SCOPE_MS)));
  await Promise.all(there.map(removeTree));
}

/** So long systemd may take to remove an empty scope. */
const SCOPE_MS = 2_000;

async function gone(dir: string, limitMs: number): Promise<void> {
  for (let waitedMs = 0; waitedMs < limitMs && existsSync(dir); waitedMs += 20) await sleep(20);
}

/** `removeCgroup` for a directory. */
export async function removeTree(dir: string): Promise<void> {
  for (let pauseMs = 5; ; pauseMs *= 2) {
    try {
      await rmdir(dir);
      return;
    } catch (err) {
      if (isErrno(err, 'ENOENT', 'ENODEV')) return;
      if (!isErrno(err, 'EBUSY', 'ENOTEMPTY')) throw err;
      for (const child of await childDirs(dir)) await removeTree(child);
      if (pauseMs > 640) throw err;
    }
    await sleep(pauseMs);
  }
}

/** The cgroups right below one, as directories; none when it is gone. */
export async function childDirs(dir: string): Promise<string[]> {
  try {
    return (await readdir(dir, { withFileTypes: true })).filter((entry) => entry.isDirectory()).map(({ name }) => join(dir, name));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENODEV')) return [];
    throw err;
  }
}

/** Processes in a cgroup and those below it, by one hierarchy's word; none when it is gone. Microseconds: it reads synchronously. */
export function procs(hierarchy: CgroupHierarchy, path: string): readonly number[] {
  return procsBelow(join(telling(hierarchy), path));
}

/** `procs` for a directory. */
export function procsBelow(dir: string): readonly number[] {
  return [...collectProcs(dir, new Set())];
}

function collectProcs(dir: string, into: Set<number>): Set<number> {
  if (!existsSync(dir)) return into;
  let names: string[];
  try {
    // 0 stands for a process of another PID namespace.
    for (const pid of readFileSync(join(dir, 'cgroup.procs'), 'latin1').split('\n')) if (pid !== '' && pid !== '0') into.add(Number(pid));
  } catch (err) {
    // EOPNOTSUPP: a threaded cgroup, whose processes the cgroup above lists (cgroup-v2.rst, Threads).
    if (!isErrno(err, 'ENOENT', 'ENODEV', 'EOPNOTSUPP', 'ENOTSUP')) throw err;
  }
  try {
    names = readdirSync(dir, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENODEV')) return into;
    throw err;
  }
  for (const name of names) collectProcs(join(dir, name), into);
  return into;
}

/**
 * Kills everything in a cgroup and below it, and waits until it is empty.
 * @throws {CriError} `deadlineExceeded` when some live on after `timeoutMs`: they wait in the kernel.
 */
export async function killAll(
  hierarchy: CgroupHierarchy,
  path: string,
  { signal, timeoutMs }: { readonly signal: AbortSignal; readonly timeoutMs: number },
): Promise<void> {
  refuseRoot(path);
  const deadline = performance.now() + timeoutMs;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
    signal.throwIfAborted();
    const left = procs(hierarchy, path);
    if (left.length === 0) return;
    if (left.includes(process.pid)) throw new CriError('failedPrecondition', `kill cgroup ${path}: the daemon itself is in it`);
    if (performance.now() > deadline) {
      throw new CriError('deadlineExceeded', `kill cgroup ${path}: still there after ${timeoutMs / 1000} s: ${left.slice(0, 10).join(', ')}`);
    }
    if (!(await killByKernel(hierarchy, path))) {
      for (const pid of left) killOne(pid);
      await thaw(hierarchy, path);
    }
    await sleep(pauseMs, signal);
  }
}

/** Version 2 since kernel 5.14 kills a whole cgroup at once, forks under way included. */
async function killByKernel({ version, mounts }: CgroupHierarchy, path: string): Promise<boolean> {
  if (version !== 2) return false;
  try {
    await writeFile(join(mounts.get('unified') ?? '', path, 'cgroup.kill'), '1', { flag: 'r+' });
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENODEV', 'EOPNOTSUPP', 'ENOTSUP')) return false;
    throw err;
  }
}

/** In a frozen v1 cgroup even SIGKILL waits. Version 2 lets the dying through. */
async function thaw({ mounts }: CgroupHierarchy, path: string): Promise<void> {
  const freezer = mounts.get('freezer');
  if (freezer === undefined) return;
  try {
    await writeFile(join(freezer, path, 'freezer.state'), 'THAWED', { flag: 'r+' });
  } catch (err) {
    if (!isErrno(err, 'ENOENT', 'ENODEV')) throw err;
  }
}

/** Success when it is gone. */
export function killOne(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (err) {
    if (!isErrno(err, 'ESRCH')) throw err;
  }
}

/** These verbs on the root would take the whole machine with them. */
export function refuseRoot(path: string): void {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (!path.startsWith('/') || parts.length === 0 || parts.includes('..')) {
    throw new CriError('failedPrecondition', `refused to touch cgroup ${JSON.stringify(path)}: not an absolute path below the root`);
  }
}
