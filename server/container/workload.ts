import { rmSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { sleep, withTimeout } from '#base/abort.ts';
import { CriError, isErrno } from '#base/errors.ts';
import { isAlive, type ProcessIdentity, readProcessStat, signalProcess } from '#base/process.ts';
import { adoptMonitor } from '../../conmon/conmon.ts';
import type { Parts } from '../parts.ts';

/** What an OCI runtime and a monitor run for us: a container, or a sandbox's pause process. */
export interface Workload {
  readonly id: string;
  readonly handler: string;
  /** Path of its cgroup below the hierarchy. */
  readonly cgroup: string;
  /** Absent where its creation did not get so far, or where it is known to be dead. */
  readonly processes?: { readonly init: ProcessIdentity; readonly monitor: ProcessIdentity } | undefined;
}

const { SIGKILL } = constants.signals;

type Needs = Pick<Parts, 'runtimes' | 'cgroups' | 'deaths' | 'paths' | 'log'>;

/** Between looks at a process that does not die, in milliseconds; the first ones are short, since most die at once. */
const looks = [5, 10, 20, 50, 100, 200, 500];

/** So long the OCI runtime may take to send KILL before it is sent without it. */
const RUNTIME_KILL_MS = 5_000;

/** A process is sent KILL again after so many looks. */
const KILL_EVERY = 8;

/** Kills the workload and waits until its first process is gone. Safe to repeat. */
export async function killWorkload(parts: Needs, workload: Workload, signal: AbortSignal): Promise<void> {
  const init = workload.processes?.init;
  if (init === undefined || !isAlive(init)) return;
  const woken = parts.deaths.wait(workload.id, signal).catch(() => {});
  await sendSignal(parts, workload, SIGKILL, signal);
  for (let look = 0; isAlive(init); look += 1) {
    if (signal.aborted)
      throw new CriError('deadlineExceeded', `container ${workload.id}: process ${init.pid} does not die (state ${readProcessStat(init.pid)?.state})`, {
        cause: signal.reason,
      });
    await Promise.race([woken, sleep(looks[look] ?? 500, signal).catch(() => {})]);
    if (look % KILL_EVERY === KILL_EVERY - 1) await sendSignal(parts, workload, SIGKILL, signal);
  }
}

/**
 * Sends a signal to the workload's first process: by the OCI runtime, which alone knows what its pid stands for; with
 * a runtime that fails or hangs, KILL goes to the process itself.
 */
export async function sendSignal(parts: Needs, workload: Workload, number: number, signal: AbortSignal): Promise<void> {
  const init = workload.processes?.init;
  if (init === undefined || !isAlive(init)) return;
  const isKill = number === SIGKILL;
  try {
    const runtime = parts.runtimes.get(workload.handler);
    if (runtime === undefined) throw new CriError('failedPrecondition', `runtime handler "${workload.handler}" is not configured any more`);
    await runtime.kill(workload.id, number, { signal: isKill ? withTimeout(signal, RUNTIME_KILL_MS) : signal });
  } catch (err) {
    if (!isKill) throw err;
    parts.log.warn({ err, containerId: workload.id, pid: init.pid }, 'Killed process without its OCI runtime');
    signalProcess(init, 'SIGKILL');
  }
}

/**
 * Takes away what is left of a dead or half-made workload: its processes, monitor, cgroup, the runtime's state and the
 * exit file. The bundle stays. Safe to repeat.
 */
export async function deleteWorkload(parts: Needs, workload: Workload, signal: AbortSignal): Promise<void> {
  const runtime = parts.runtimes.get(workload.handler);
  // What shared a PID namespace, or was left by a hung runtime, outlives the first process.
  await parts.cgroups.kill(workload.cgroup, { signal });
  if (runtime !== undefined) await runtime.delete(workload.id, { force: true, signal });
  await parts.cgroups.remove(workload.cgroup);
  await parts.cgroups.execs.remove(workload.id);
  // Where a creation broke off, nothing but the bundle tells of it.
  const monitor = workload.processes?.monitor ?? (await adoptMonitor(parts.paths.bundle(workload.id))).monitor;
  // It ends by itself once its container has; one that hangs would write an exit file for a later object.
  if (monitor !== undefined && isAlive(monitor)) {
    for (let look = 0; look < looks.length && isAlive(monitor); look += 1) await sleep(looks[look] ?? 500, signal);
    signalProcess(monitor, 'SIGKILL');
  }
  rmSync(join(parts.paths.exits, workload.id), { force: true });
}

/** Moves a bundle out of the way, which takes one call where deleting it takes dozens. Safe to repeat. */
export async function discardBundle({ paths }: Pick<Parts, 'paths'>, id: string): Promise<void> {
  try {
    await rename(paths.bundle(id), join(paths.bundleTrash, `${id}.${process.pid}`));
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}
