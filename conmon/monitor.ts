import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { descendants } from '#base/exec.ts';
import { identifyProcess, isAlive, type ProcessIdentity, readProcessStat, signalProcess } from '#base/process.ts';
import { bundleFiles } from './args.ts';

/** The processes of one container that are there. */
export interface Adopted {
  readonly monitor: ProcessIdentity | undefined;
  /** The container's first process. */
  readonly init: ProcessIdentity | undefined;
}

/**
 * Finds a container's processes by the pid files in its bundle, for a daemon that did not start them. A pid may have
 * been taken by a stranger meanwhile: the monitor must have the bundle on its command line, and the container's init
 * must be the monitor's child or lie in a cgroup that carries the container's id, which is the bundle's name.
 */
export async function adoptMonitor(bundle: string): Promise<Adopted> {
  const files = bundleFiles(bundle);
  const [monitorPid, initPid] = await Promise.all([readPid(files.monitorPid), readPid(files.initPid)]);
  const monitor = monitorPid !== undefined && isMonitorOf(monitorPid, bundle) ? identifyProcess(monitorPid) : undefined;
  const init = initPid !== undefined && isInitOf(initPid, bundle, monitor) ? identifyProcess(initPid) : undefined;
  return { monitor, init };
}

/** The pid in a pid file; `undefined` where there is none. */
export async function readPid(path: string): Promise<number | undefined> {
  try {
    const pid = Number((await readFile(path, 'latin1')).trim());
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}

/** A monitor that has left no pid file: looks through all processes. */
export function findMonitor(bundle: string): ProcessIdentity | undefined {
  const pid = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .find((candidate) => isMonitorOf(candidate, bundle));
  return pid === undefined ? undefined : identifyProcess(pid);
}

/**
 * Kills a monitor and everything below it, and waits until all are dead or zombies. The monitor is stopped first: as a
 * subreaper it then inherits every orphan, so nothing can slip away while its parents are being killed.
 * @returns those that live on after `timeoutMs`, which the kernel holds in uninterruptible sleep.
 */
export async function killMonitor(monitor: ProcessIdentity, timeoutMs: number): Promise<ProcessIdentity[]> {
  signalProcess(monitor, 'SIGSTOP');
  const deadline = performance.now() + timeoutMs;
  let empty = 0;
  for (;;) {
    const below = isAlive(monitor) ? descendants(monitor.pid) : [];
    for (const process of below) signalProcess(process, 'SIGKILL');
    // A process that dies while we look has its children moved to the monitor, whose list we may have read before: only
    // a second look that finds nobody is proof.
    empty = below.length === 0 ? empty + 1 : 0;
    if (empty >= 2) signalProcess(monitor, 'SIGKILL');
    if (empty > 0 && !isAlive(monitor)) return [];
    if (performance.now() > deadline) return [monitor, ...below].filter(isAlive);
    await sleep(2);
  }
}

/**
 * Kills what an interrupted start has left: the monitor, were it not yet to have a pid file, the OCI runtime below it, and
 * the container's init. For a daemon that did not start them. Safe to repeat.
 */
export async function endMonitor(bundle: string, timeoutMs = 5_000): Promise<void> {
  const adopted = await adoptMonitor(bundle);
  const monitor = adopted.monitor ?? findMonitor(bundle);
  if (monitor !== undefined) await killMonitor(monitor, timeoutMs);
  if (adopted.init !== undefined) signalProcess(adopted.init, 'SIGKILL');
}

function isMonitorOf(pid: number, bundle: string): boolean {
  const args = readProc(pid, 'cmdline')?.split('\0') ?? [];
  return args.some((arg, index) => arg === '-b' && args[index + 1] === bundle);
}

function isInitOf(pid: number, bundle: string, monitor: ProcessIdentity | undefined): boolean {
  if (monitor !== undefined && readProcessStat(pid)?.parentPid === monitor.pid) return true;
  return readProc(pid, 'cgroup')?.includes(basename(bundle)) === true;
}

function readProc(pid: number, file: 'cmdline' | 'cgroup'): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return undefined;
    throw err;
  }
}
