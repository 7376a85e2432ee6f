import { readFileSync } from 'node:fs';
import { isErrno } from './errors.ts';

/** A process that cannot be mistaken for a later one with the same pid: its start time in clock ticks since boot goes with it. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, see proc(5). */
  readonly startTime: string;
}

export interface ProcessStat extends ProcessIdentity {
  /** `R`, `S`, `D`, `Z`, `X`, … */
  readonly state: string;
  readonly parentPid: number;
  readonly sessionId: number;
}

/** What /proc/PID/stat says now; `undefined` when there is no such process. */
export function readProcessStat(pid: number): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return undefined;
    throw err;
  }
  // The second field is the command's name in parentheses and may hold anything, blanks and parentheses too.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { pid, state: fields[0] ?? '', parentPid: Number(fields[1]), sessionId: Number(fields[3]), startTime: fields[19] ?? '' };
}

/** The identity of a live process; `undefined` when it is gone or a zombie. */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  const stat = readProcessStat(pid);
  return stat === undefined || isDead(stat.state) ? undefined : { pid, startTime: stat.startTime };
}

/** True while this very process lives; a zombie counts as gone, since it runs no more and only waits for its parent. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  const stat = readProcessStat(pid);
  return stat !== undefined && stat.startTime === startTime && !isDead(stat.state);
}

/** Sends a signal if this very process still lives; false when it does not. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals | number): boolean {
  if (!isAlive(identity)) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (err) {
    if (isErrno(err, 'ESRCH')) return false;
    throw err;
  }
}

function isDead(state: string): boolean {
  return state === 'Z' || state === 'X';
}
