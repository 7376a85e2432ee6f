import { existsSync } from 'node:fs';
import type { Socket } from 'node:net';
import { basename } from 'node:path';
import { orAborted } from '#base/abort.ts';
import { CriError, describeError, isErrno } from '#base/errors.ts';
import { CommandError, type SpawnedProcess, spawnProcess } from '#base/exec.ts';
import { Pipe } from '#base/pipe.ts';
import { identifyProcess, type ProcessIdentity, readProcessStat, signalProcess } from '#base/process.ts';
import { bundleFiles, type MonitorSpec, monitorArgs, monitorEnv, refusal } from './args.ts';
import { findMonitor, killMonitor, readPid } from './monitor.ts';
import { runtimeMessage } from './runtime-message.ts';

export { bundleFiles, type MonitorSpec } from './args.ts';
export { type Attached, type AttachedStream, attachTo } from './attach.ts';
export { reopenLog, resize } from './control.ts';
export { type ExecMonitor, startExecMonitor } from './exec.ts';
export { type Exit, ExitWatcher, readExit } from './exit.ts';
export { type Adopted, adoptMonitor, endMonitor } from './monitor.ts';
export { runtimeMessage } from './runtime-message.ts';

/** A container that was created and waits for the runtime's `start`. */
export interface Started {
  /** conmon itself, which outlives the daemon. */
  readonly monitor: ProcessIdentity;
  /** The container's first process. */
  readonly init: ProcessIdentity;
}

/** How long a process may take to die of SIGKILL before it is given up as stuck in the kernel. */
const KILL_TIMEOUT_MS = 5_000;

/**
 * Starts a monitor, which runs the OCI runtime's `create`. On failure and on abort the monitor, the runtime and all that
 * they started are dead when this rejects; the runtime's own state is left for its `delete --force`.
 * @throws {CriError} with the runtime's or the monitor's own words; the signal's reason when that came first.
 */
export async function startMonitor(spec: MonitorSpec, { signal }: { signal: AbortSignal }): Promise<Started> {
  signal.throwIfAborted();
  const refused = refusal(spec);
  if (refused !== undefined) throw new CriError('failedPrecondition', `create container ${spec.id}: ${refused}`);

  using gate = new Pipe();
  const { launcher, report } = await launch(spec, gate);
  const launched = readProcessStat(launcher.pid)?.startTime;
  const reported = firstReport(report);
  let released = false;
  try {
    await placeMonitor(spec, launcher, reported, signal);
    signal.throwIfAborted();
    released = true;
    gate.closeWrite(); // conmon reads the end of the pipe as the word to go on
    return await identify(spec, launcher, await orAborted(reported, signal));
  } catch (err) {
    const survivors = await killStart(spec, launcher, { launched, released });
    signal.throwIfAborted();
    const stuck = survivors.length === 0 ? '' : ` (process ${survivors.map(({ pid }) => pid).join(', ')} does not die)`;
    throw new CriError(err instanceof CriError ? err.kind : 'unknown', `create container ${spec.id}: ${describeError(err)}${stuck}`, { cause: err });
  } finally {
    report.destroy();
  }
}

/** conmon as it was called: it forks the monitor proper, writes its pid file, and ends. */
async function launch(spec: MonitorSpec, gate: Pipe): Promise<{ launcher: SpawnedProcess; report: Socket }> {
  using report = new Pipe();
  try {
    // Its stderr and its reports share a pipe. It puts /dev/null over stderr once its arguments are in order.
    const stdio = ['ignore', 'ignore', report.writeEnd, report.writeEnd, gate.readEnd] as const;
    const launcher = await spawnProcess(spec.conmonPath, monitorArgs(spec), { stdio, env: monitorEnv(spec), cwd: spec.bundle });
    gate.closeRead();
    report.closeWrite();
    return { launcher, report: report.stream() };
  } catch (err) {
    if (!(err instanceof CommandError)) throw err;
    if (!existsSync(spec.bundle)) throw new CriError('failedPrecondition', `create container ${spec.id}: bundle ${spec.bundle} is missing`, { cause: err });
    const reason = isErrno(err.cause, 'ENOENT') ? 'is missing' : isErrno(err.cause, 'EACCES') ? 'is not executable' : describeError(err.cause);
    throw new CriError('failedPrecondition', `create container ${spec.id}: monitor ${spec.conmonPath} ${reason}`, { cause: err });
  }
}

async function placeMonitor(spec: MonitorSpec, launcher: SpawnedProcess, reported: Promise<Report>, signal: AbortSignal): Promise<void> {
  try {
    if (spec.place !== undefined) await orAborted(Promise.resolve(spec.place(launcher.pid)), signal);
  } catch (err) {
    // A monitor that does not like its arguments ends before it can be placed; then its words are the reason.
    if (!signal.aborted && identifyProcess(launcher.pid) === undefined) await identify(spec, launcher, await reported);
    throw err;
  }
}

interface Report {
  /** Of the container's init; -1 when the runtime failed; `undefined` when the monitor ended without a word. */
  readonly pid: number | undefined;
  /** What the runtime, or the monitor itself, had to say. */
  readonly text: string;
}

/** Reads up to the monitor's first report, or to the end, which is the monitor's death. */
function firstReport(stream: Socket): Promise<Report> {
  return new Promise((resolve) => {
    let text = '';
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      text += chunk;
      const line = /^(\{"pid":.*)\n/m.exec(text)?.[1];
      if (line !== undefined) resolve(parseReport(line));
    });
    stream.on('error', () => {}); // `close` follows
    stream.on('close', () => resolve({ pid: undefined, text: text.trim() }));
  });
}

function parseReport(line: string): Report {
  try {
    const { pid, message = '' } = JSON.parse(line) as { pid: number; message?: string };
    return { pid, text: message };
  } catch {
    // conmon leaves some control characters bare, which JSON does not allow.
    return { pid: Number(/^\{"pid": *(-?\d+)/.exec(line)?.[1]), text: /"message": *"(.*)"\}$/.exec(line)?.[1] ?? line };
  }
}

async function identify(spec: MonitorSpec, launcher: SpawnedProcess, created: Report): Promise<Started> {
  if (created.pid === undefined) {
    const said = created.text.replace(/^\[conmon:[a-z]\]:\s*/gm, '');
    throw new Error(said === '' ? 'monitor ended without a report, it or the runtime was killed' : `monitor failed: ${said}`);
  }
  if (created.pid <= 0) throw new Error(`${basename(spec.runtimePath)}: ${runtimeMessage(created.text) || 'failed without a word'}`);
  await launcher.exited; // the pid file is complete
  const monitorPid = await readPid(bundleFiles(spec.bundle).monitorPid);
  const monitor = monitorPid === undefined ? undefined : identifyProcess(monitorPid);
  if (monitor === undefined) throw new Error('monitor died after the container was created');
  const init = identifyProcess(created.pid);
  if (init === undefined) throw new Error(`process ${created.pid} of the container died before it was started`);
  return { monitor, init };
}

/** Kills whatever a start has left, wherever it stopped. Returns what does not die. */
async function killStart(
  spec: MonitorSpec,
  launcher: SpawnedProcess,
  { launched, released }: { launched: string | undefined; released: boolean },
): Promise<ProcessIdentity[]> {
  const files = bundleFiles(spec.bundle);
  // Before the gate it waits for ever; past it, it lives only until it has forked and written the pid file.
  const timer = setTimeout(() => killGroupOf(launcher), released ? 1_000 : 0);
  await launcher.exited;
  clearTimeout(timer);
  if (!released) return [];
  const monitorPid = await readPid(files.monitorPid);
  const monitor = monitorPid === undefined ? findMonitor(spec.bundle) : identifyProcess(monitorPid);
  const survivors = monitor === undefined ? [] : await killMonitor(monitor, KILL_TIMEOUT_MS);
  // Where the monitor had died first, the container's init is nobody's child any more. Only one that is younger than
  // this start can be ours.
  const initPid = await readPid(files.initPid);
  const init = initPid === undefined ? undefined : identifyProcess(initPid);
  if (init !== undefined && launched !== undefined && BigInt(init.startTime) >= BigInt(launched)) signalProcess(init, 'SIGKILL');
  return survivors;
}

function killGroupOf({ pid }: SpawnedProcess): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (err) {
    if (!isErrno(err, 'ESRCH')) throw err;
  }
}
