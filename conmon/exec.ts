import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { basename, join } from 'node:path';
import { orAborted } from '#base/abort.ts';
import { CriError, describeError, isErrno } from '#base/errors.ts';
import { CommandError, type SpawnedProcess, spawnProcess } from '#base/exec.ts';
import { Pipe } from '#base/pipe.ts';
import { bundleFiles } from './args.ts';
import { type Attached, attachTo } from './attach.ts';
import { runtimeMessage } from './runtime-message.ts';

/** A command with a terminal that a monitor of its own is to run in a container. Paths are absolute. */
export interface ExecMonitorSpec {
  readonly id: string;
  readonly conmonPath: string;
  readonly runtimePath: string;
  readonly runtimeRoot: string;
  /** A fresh directory for the monitor's socket and fifos, with a short path: unix(7) allows 107 bytes. */
  readonly directory: string;
  /** The OCI process, with `terminal` set. Read once `begin` has been called. */
  readonly processPath: string;
  /** Gets the pid of the command. */
  readonly pidPath: string;
  /** For the OCI runtime's `exec`. */
  readonly execArgs: readonly string[];
  /** Called before the monitor does anything, with its pid. */
  readonly place: (monitorPid: number) => Promise<void>;
}

/** A monitor that waits for the word to execute its command. It ends when the command does. */
export interface ExecMonitor extends Disposable {
  readonly monitor: SpawnedProcess;
  /** The command's terminal. Its `closed` fulfils when all output is there. */
  readonly terminal: Attached;
  /** Executes the command. */
  begin(): void;
  /**
   * The command's exit code, or 128 + the signal that killed it.
   * Rejects with a `CriError` `unknown` with the runtime's words when it could not be executed, or when the monitor died.
   */
  readonly ended: Promise<number>;
}

/** Numbers of the monitor's fds, beside stdio: its reports, the two words to go on, and its word that it listens. */
const FDS = { report: 3, gate: 4, listening: 5 } as const;

/**
 * Starts a monitor for an exec and attaches to it. Nothing is executed before `begin()`, so that no output is missed.
 * Killing what it runs is the caller's.
 * @throws {CriError} `failedPrecondition` when the monitor cannot be started or does not listen.
 */
export async function startExecMonitor(spec: ExecMonitorSpec, onOutput: (bytes: Buffer) => void, { signal }: { signal: AbortSignal }): Promise<ExecMonitor> {
  signal.throwIfAborted();
  using report = new Pipe();
  using gate = new Pipe();
  using listening = new Pipe();
  const monitor = await launch(spec, [report.writeEnd, gate.readEnd, listening.writeEnd]);
  let reaped = false;
  void monitor.exited.then(() => {
    reaped = true;
  });
  for (const pipe of [report, listening]) pipe.closeWrite();
  gate.closeRead();
  const reports = report.stream();
  const ended = readReports(spec, reports);
  ended.catch(() => {}); // told again by whoever waits for it
  const word = gate.writer().on('error', () => {}); // a monitor that has died says so in its reports
  try {
    await spec.place(monitor.pid);
    word.write('1');
    await orAborted(firstLine(listening.stream()), signal);
    const terminal = await attachTo(bundleFiles(spec.directory).attach, (_stream, bytes) => onOutput(bytes), { terminalOf: monitor.pid, signal });
    return {
      monitor,
      terminal,
      ended,
      begin: () => word.end('1'),
      [Symbol.dispose]: () => {
        word.destroy();
        terminal[Symbol.dispose]();
        reports.destroy();
      },
    };
  } catch (err) {
    if (!reaped) process.kill(monitor.pid, 'SIGKILL'); // it has not executed anything yet
    await monitor.exited;
    word.destroy();
    if (signal.aborted) reports.destroy();
    signal.throwIfAborted();
    const said = await ended.then(String, describeError);
    throw new CriError('failedPrecondition', `${said === '' ? describeError(err) : said}`, { cause: err });
  }
}

/** The command line of conmon 2.1 for an exec with a terminal. */
export function execMonitorArgs({ id, runtimePath, runtimeRoot, execArgs, directory, processPath, pidPath }: ExecMonitorSpec): string[] {
  return [
    ...['--api-version', '1', '-e', '--exec-attach', '--exec-process-spec', processPath],
    ...['-c', id, '-u', id, '-n', id, '-r', runtimePath, '--runtime-arg', `--root=${runtimeRoot}`],
    ...['--runtime-arg', `--log=${runtimeLog(directory)}`, '--runtime-arg', '--log-format=json'],
    ...execArgs.flatMap((arg) => ['--runtime-opt', arg]),
    ...['-b', directory, '-p', pidPath, '--exit-dir', directory],
    // --sync: the process that is started is the monitor itself, so that it can be waited for.
    ...['-l', 'none', '--full-attach', '--no-sync-log', '--log-level', 'error', '--sync', '-t'],
  ];
}

async function launch(spec: ExecMonitorSpec, fds: readonly [number, number, number]): Promise<SpawnedProcess> {
  const env = {
    _OCI_SYNCPIPE: String(FDS.report),
    _OCI_STARTPIPE: String(FDS.gate),
    _OCI_ATTACHPIPE: String(FDS.listening),
    TMPDIR: spec.directory,
  };
  try {
    // Its stderr and its reports share a pipe: what it says before it can report is the reason.
    return await spawnProcess(spec.conmonPath, execMonitorArgs(spec), { stdio: ['ignore', 'ignore', fds[0], ...fds], env, cwd: spec.directory });
  } catch (cause) {
    if (!(cause instanceof CommandError)) throw cause;
    throw new CriError('failedPrecondition', `monitor ${spec.conmonPath} could not be started`, { cause });
  }
}

/** The monitor tells the pid of the command (negative: it could not be executed), and when that has ended its exit code. */
function readReports(spec: ExecMonitorSpec, stream: Socket): Promise<number> {
  return new Promise((resolve, reject) => {
    let text = '';
    let begun = false;
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const line = text.slice(0, end);
        // What it says in plain words stays, as the reason should no report come.
        const found = /^\{ *"(?:data|pid|exit_code)": *(-?\d+)/.exec(line);
        if (found === null) break;
        text = text.slice(end + 1);
        const value = Number(found[1]);
        if (begun) resolve(value < 0 ? 255 : value);
        else if (value <= 0) reject(notExecuted(spec, messageOf(line)));
        begun = true;
      }
    });
    stream.on('error', () => {}); // `close` follows
    stream.on('close', () => reject(notExecuted(spec, text)));
  });
}

function notExecuted({ runtimePath, directory }: ExecMonitorSpec, words: string): CriError {
  const said = runtimeMessage(words) || runtimeMessage(readOptional(runtimeLog(directory)));
  return new CriError('unknown', `${basename(runtimePath)}: ${said || 'failed without a word, or was killed'}`);
}

function readOptional(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return '';
    throw err;
  }
}

function messageOf(line: string): string {
  try {
    return String((JSON.parse(line) as { message?: unknown }).message ?? '');
  } catch {
    return /"message": *"(.*)"\}$/.exec(line)?.[1] ?? line; // conmon leaves some control characters bare
  }
}

async function firstLine(stream: Socket): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      stream.on('error', () => {}); // `close` follows
      stream.once('data', () => resolve());
      stream.once('close', () => reject(new Error('monitor ended before it listened')));
    });
  } finally {
    stream.destroy();
  }
}

/** crun prints why a command cannot be executed on the terminal, where the monitor loses it. */
const runtimeLog = (directory: string): string => join(directory, 'log');
