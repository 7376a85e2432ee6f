import { closeSync, constants, openSync, readdirSync, readSync, rmSync, type Stats, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { sleep } from '#base/abort.ts';
import { CriError, isErrno } from '#base/errors.ts';
import { isAlive, type ProcessIdentity } from '#base/process.ts';
import { bundleFiles } from './args.ts';
import { adoptMonitor } from './monitor.ts';

/** A line for conmon's control fifo. Source: conmon's ctrl.c; the second number of a reopening is not looked at. */
const REOPEN = '2 0 0\n';
const resizeLine = (height: number, width: number): string => `1 ${height} ${width}\n`;
const SIZE_MAX = 1_000;

/**
 * Makes the monitor write to a new file at `logPath` after the old one was renamed. Returns once the new file is there
 * and the monitor has it open. Does nothing where nothing was renamed: conmon replaces the file whatever it holds. Calls
 * for one container must not overlap, for the same reason.
 * @throws {CriError} `failedPrecondition` without a monitor or without the log's directory, whose lack would kill the
 * monitor; `deadlineExceeded` after `timeoutMs`, with the command taken back.
 */
export async function reopenLog(bundle: string, logPath: string, { signal, timeoutMs }: { signal: AbortSignal; timeoutMs: number }): Promise<void> {
  signal.throwIfAborted();
  const { monitor } = await adoptMonitor(bundle);
  if (monitor === undefined) throw new CriError('failedPrecondition', `reopen log ${logPath}: no monitor runs in ${bundle}`);
  if (hasOpen(monitor, logPath)) return;
  if (statSync(dirname(logPath), { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw new CriError('failedPrecondition', `reopen log ${logPath}: its directory is missing`);
  }
  prepareFile(`${logPath}.tmp`);
  const deadline = performance.now() + timeoutMs;
  const { control } = bundleFiles(bundle);
  tell(control, REOPEN);
  for (let pauseMs = 1; !hasOpen(monitor, logPath); pauseMs = Math.min(2 * pauseMs, 50)) {
    if (!isAlive(monitor)) {
      rmSync(`${logPath}.tmp`, { force: true });
      throw new CriError('failedPrecondition', `reopen log ${logPath}: the monitor died`);
    }
    try {
      if (performance.now() > deadline) throw new CriError('deadlineExceeded', `reopen log ${logPath}: the monitor did not answer for ${timeoutMs} ms`);
      await sleep(pauseMs, signal);
    } catch (err) {
      takeBack(control);
      throw err;
    }
  }
}

/** Makes the file that conmon opens before it renames it to the log: where that fails, conmon exits and the container is on its own. */
function prepareFile(path: string): void {
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW, 0o600));
  } catch (err) {
    throw new CriError('failedPrecondition', `reopen log: no new file can be made in its directory`, { cause: err });
  }
}

/** Sets the size of the container's terminal, in character cells; conmon takes at most 1000 each way. */
export async function resize(bundle: string, width: number, height: number): Promise<void> {
  const [cells, rows] = [width, height].map((size) => Math.min(Math.max(Math.trunc(size), 0), SIZE_MAX)) as [number, number];
  tell(bundleFiles(bundle).control, resizeLine(rows, cells));
}

/** Writes without ever waiting: a fifo that nobody reads says ENXIO, a full one EAGAIN. */
function tell(control: string, line: string): void {
  try {
    const fd = openSync(control, constants.O_WRONLY | constants.O_NONBLOCK);
    try {
      writeSync(fd, line);
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    if (isErrno(err, 'ENXIO', 'ENOENT')) throw new CriError('failedPrecondition', `no monitor reads ${control}`, { cause: err });
    if (isErrno(err, 'EAGAIN')) throw new CriError('unavailable', `the monitor does not read ${control}`, { cause: err });
    throw err;
  }
}

/**
 * Takes a reopening that the monitor has not read out of the fifo again. Left there, it would be done some day, after the
 * one that the caller's next attempt asks for, and throw away what was logged in between.
 */
function takeBack(control: string): void {
  const buffer = Buffer.alloc(65_536);
  try {
    const fd = openSync(control, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const unread = buffer.toString('latin1', 0, readSync(fd, buffer));
      const others = unread.replaceAll(REOPEN, '');
      if (others !== '') tell(control, others);
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    if (!isErrno(err, 'EAGAIN', 'ENOENT') && !(err instanceof CriError)) throw err;
  }
}

/** True when the file at this path is one that the process has open. */
function hasOpen({ pid }: ProcessIdentity, path: string): boolean {
  const file = statSync(path, { throwIfNoEntry: false });
  if (file === undefined) return false;
  const same = (other: Stats | undefined): boolean => other?.ino === file.ino && other.dev === file.dev;
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => same(statSync(`/proc/${pid}/fd/${fd}`, { throwIfNoEntry: false })));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return false; // the process is gone
    throw err;
  }
}
