import { orAborted, sleep } from '#base/abort.ts';
import { isAlive } from '#base/process.ts';
import type { Parts } from '../parts.ts';
import { processesOf } from './container.ts';
import { type EndNeeds, noteEnd } from './end.ts';
import { workloadOf } from './take-down.ts';
import { killWorkload, sendSignal } from './workload.ts';

type Needs = EndNeeds & Pick<Parts, 'stops'>;

/** How long KILL may take to work; a process stuck in the kernel can take for ever. */
const KILL_MS = 120_000;

/** An exit file may come a moment after the process has gone. */
const EXIT_FILE_MS = 2_000;

/** A stop that is under way; a later call with a shorter grace period shortens it. */
export interface RunningStop {
  /** When KILL follows, in milliseconds of `performance.now()`. */
  killAt: number;
  /** The grace period is over: no more commands are executed in the container. */
  killing: boolean;
  /** Wakes the stop to look at `killAt` again. */
  hurry: () => void;
  readonly done: Promise<void>;
}

/**
 * Stops a container: its stop signal, then KILL after `graceMs`, at once for 0. Success when it is not running or not
 * there. The stop goes on when its caller leaves.
 */
export async function stopContainer(parts: Needs, id: string, graceMs: number, caller: AbortSignal): Promise<void> {
  const killAt = performance.now() + graceMs;
  let stop = parts.stops.get(id);
  if (stop === undefined) {
    const record = parts.containers.get(id);
    if (record === undefined || processesOf(record.state) === undefined) return;
    stop = begin(parts, id, killAt);
  } else if (killAt < stop.killAt) {
    stop.killAt = killAt;
    stop.hurry();
  }
  await orAborted(stop.done, caller);
}

function begin(parts: Needs, id: string, killAt: number): RunningStop {
  let wake = Promise.withResolvers<void>();
  const stop: { -readonly [Key in keyof RunningStop]: RunningStop[Key] } = {
    killAt,
    killing: false,
    hurry: () => {
      wake.resolve();
      wake = Promise.withResolvers();
    },
    done: Promise.resolve(),
  };
  parts.stops.set(id, stop);
  stop.done = carryOut(parts, id, stop, () => wake.promise).finally(() => parts.stops.delete(id));
  stop.done.catch(() => {}); // callers that are left hear of it
  return stop;
}

async function carryOut(parts: Needs, id: string, stop: RunningStop, hurried: () => Promise<void>): Promise<void> {
  const record = parts.containers.get(id);
  const processes = record === undefined ? undefined : processesOf(record.state);
  if (record === undefined || processes === undefined) return;
  const workload = workloadOf(record);
  const ended = parts.deaths.wait(id, parts.signal).catch(() => {});
  const told = new AbortController();
  // A container that was only created has nobody to tell: its first process waits in the OCI runtime.
  if (record.state.name === 'running' && stop.killAt > performance.now()) {
    // Not awaited: a runtime that hangs must not keep KILL from coming in time.
    sendSignal(parts, workload, record.stopSignalNumber, AbortSignal.any([parts.signal, told.signal])).catch((err: unknown) => {
      if (!told.signal.aborted) parts.log.warn({ err, containerId: id, signal: record.stopSignalNumber }, 'Could not send stop signal');
    });
    for (let left = stop.killAt - performance.now(); left > 0 && isAlive(processes.init); left = stop.killAt - performance.now()) {
      parts.signal.throwIfAborted();
      // The look every second is for an end that nobody tells of, such as after the monitor's death.
      const quiet = new AbortController();
      await Promise.race([ended, hurried(), sleep(Math.min(left, 1_000), quiet.signal).catch(() => {})]);
      quiet.abort();
    }
  }
  told.abort();
  stop.killing = true;
  await killWorkload(parts, workload, AbortSignal.any([parts.signal, AbortSignal.timeout(KILL_MS)]));
  await awaitEnd(parts, id, ended);
}

/** Waits until the end is noted; where no exit file comes, it is noted without. */
async function awaitEnd(parts: Needs, id: string, ended: Promise<void>): Promise<void> {
  if (isNoted(parts, id)) return;
  await noteEnd(parts, id);
  if (isNoted(parts, id)) return;
  const quiet = new AbortController();
  await Promise.race([ended, sleep(EXIT_FILE_MS, quiet.signal).catch(() => {})]);
  quiet.abort();
  if (!isNoted(parts, id)) await noteEnd(parts, id, { exitCode: 137, reason: 'Error', message: 'killed; its monitor left no exit code' });
}

function isNoted(parts: Needs, id: string): boolean {
  const record = parts.containers.get(id);
  return record === undefined || processesOf(record.state) === undefined;
}
