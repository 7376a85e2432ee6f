import { type ChildProcess, fork } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { ExecaError, execa } from 'execa';
import { isErrno } from './errors.ts';
import { Pipe } from './pipe.ts';
import { identifyProcess, type ProcessIdentity, readProcessStat } from './process.ts';
import { CHILD_PATH, type SpawnedProcess, type SpawnOptions, spawnCommand } from './spawn.ts';
import { SysError } from './sys.ts';

export type { SpawnedProcess, SpawnOptions } from './spawn.ts';

const MAX_OUTPUT_BYTES = 4 * 1024 * 1024;
const KILL_DELAY_MS = 2_000;

/** A command that did not end with exit code 0, with what an operator needs to repeat it by hand. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  /** `undefined` when it did not start, or a signal ended it. */
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;

  constructor(command: string, what: string, result: { exitCode?: number | undefined; stdout?: string; stderr?: string; cause?: unknown }) {
    const said = (result.stderr ?? '').trim();
    super(`${what}: ${command}${said === '' ? '' : `: ${tail(said, 2_000)}`}`, { cause: result.cause });
    this.exitCode = result.exitCode;
    this.stdout = result.stdout ?? '';
    this.stderr = result.stderr ?? '';
  }
}

export interface RunOptions {
  /** Ends the command and everything it started; the call then rejects with the signal's reason. */
  readonly signal: AbortSignal;
  /** Written to its stdin, which is otherwise `/dev/null`. */
  readonly input?: string;
  /** Added to `PATH`; nothing is inherited. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** The command runs through `base/spawn.ts`: for the verbs on a pod's hot path, where execa and Node's fork cost most. */
  readonly hot?: boolean;
  /** Of stdout and stderr each, in bytes; more ends the command with an error. Default 4 MiB. */
  readonly maxOutputBytes?: number;
}

export interface RunResult {
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a command to its end: no shell, no inherited environment, output bounded, its whole process group killed when
 * the signal fires.
 * @throws {CommandError} when it cannot be started or does not exit with 0.
 */
export type Run = (file: string, args: readonly string[], options: RunOptions) => Promise<RunResult>;

export const run: Run = (file, args, options) => {
  options.signal.throwIfAborted();
  return options.hot === true ? runBySpawn(file, args, options) : runByExeca(file, args, options);
};

async function runByExeca(file: string, args: readonly string[], { signal, input, env, cwd, maxOutputBytes }: RunOptions): Promise<RunResult> {
  const child = execa(file, args, {
    detached: true,
    cleanup: false,
    maxBuffer: maxOutputBytes ?? MAX_OUTPUT_BYTES,
    env: { PATH: CHILD_PATH, ...env },
    extendEnv: false,
    stripFinalNewline: false,
    ...(cwd === undefined ? {} : { cwd }),
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
  });
  const release = killGroupOnAbort(child.pid, signal);
  try {
    const { stdout, stderr } = await child;
    return { stdout, stderr };
  } catch (err) {
    killGroup(child.pid, 'SIGKILL'); // too much output, or its leader died: the rest must not stay
    signal.throwIfAborted();
    if (!(err instanceof ExecaError)) throw err;
    throw new CommandError(commandLine(file, args), failure(err.exitCode, err.signal, err.isMaxBuffer, err.originalMessage), {
      exitCode: err.exitCode,
      stdout: String(err.stdout ?? ''),
      stderr: String(err.stderr ?? ''),
      cause: err.cause,
    });
  } finally {
    release();
  }
}

async function runBySpawn(
  file: string,
  args: readonly string[],
  { signal, input, env, cwd, maxOutputBytes = MAX_OUTPUT_BYTES }: RunOptions,
): Promise<RunResult> {
  using out = new Pipe();
  using err = new Pipe();
  using feed = input === undefined ? undefined : new Pipe();
  const child = await spawnProcess(file, args, {
    stdio: [feed?.readEnd ?? 'ignore', out.writeEnd, err.writeEnd],
    ...(env === undefined ? {} : { env }),
    ...(cwd === undefined ? {} : { cwd }),
  });
  const release = killGroupOnAbort(child.pid, signal);
  for (const pipe of [out, err]) pipe.closeWrite();
  feed?.closeRead();
  feed?.fill(input ?? ''); // it may exit without reading: its exit code tells
  let overflow = false;
  const collect = (stream: Socket): Promise<string> => {
    const chunks: Buffer[] = [];
    let size = 0;
    stream.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= maxOutputBytes) chunks.push(chunk);
      else {
        overflow = true;
        killGroup(child.pid, 'SIGKILL');
      }
    });
    stream.on('error', () => {}); // `close` follows
    return new Promise((resolve) => stream.on('close', () => resolve(Buffer.concat(chunks).toString())));
  };
  const [{ exitCode, signal: signalName }, stdout, stderr] = await Promise.all([child.exited, collect(out.stream()), collect(err.stream())]);
  release();
  if (exitCode === 0 && !overflow) return { stdout, stderr };
  signal.throwIfAborted();
  throw new CommandError(commandLine(file, args), failure(exitCode, signalName, overflow, undefined), { exitCode, stdout, stderr });
}

/** TERM to the whole process group when the signal fires, KILL 2 s later. Returns what takes the listener off. */
function killGroupOnAbort(pid: number | undefined, signal: AbortSignal): () => void {
  let timer: NodeJS.Timeout | undefined;
  const onAbort = (): void => {
    killGroup(pid, 'SIGTERM');
    timer = setTimeout(() => killGroup(pid, 'SIGKILL'), KILL_DELAY_MS);
    timer.unref();
  };
  if (signal.aborted)
    onAbort(); // while the command was being started
  else signal.addEventListener('abort', onAbort, { once: true });
  return () => {
    signal.removeEventListener('abort', onAbort);
    if (timer === undefined) return;
    clearTimeout(timer);
    killGroup(pid, 'SIGKILL'); // the leader ended on TERM; children that ignored it go now
  };
}

function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // the group is gone
  }
}

function failure(exitCode: number | undefined, signalName: string | undefined, overflow: boolean, message: string | undefined): string {
  if (overflow) return 'command printed too much';
  if (signalName !== undefined) return `command was killed by ${signalName}`;
  if (exitCode !== undefined) return `command failed with exit code ${exitCode}`;
  return `command could not be started (${message ?? 'no reason given'})`;
}

function commandLine(file: string, args: readonly string[]): string {
  return [file, ...args].map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
}

function tail(text: string, length: number): string {
  return text.length <= length ? text : `…${text.slice(-length)}`;
}

/**
 * Starts a command in a session of its own, on fds that the caller chose: for the commands whose life is not one
 * request and one answer, which is what `run` is for. Nothing kills it but the caller.
 * @throws {CommandError} when it cannot be started.
 */
export async function spawnProcess(file: string, args: readonly string[], options: SpawnOptions): Promise<SpawnedProcess> {
  try {
    return await spawnCommand(file, args, options);
  } catch (cause) {
    if (!(cause instanceof SysError)) throw cause;
    throw new CommandError(commandLine(file, args), failure(undefined, undefined, false, cause.message), { cause });
  }
}

/**
 * The living children of a process, theirs, and so on; zombies are left out. One look: a process that forks meanwhile
 * may hide a child, so repeat until nothing is found. Source: /proc/PID/task/TID/children, proc(5).
 */
export function descendants(pid: number): ProcessIdentity[] {
  const found: ProcessIdentity[] = [];
  const queue = [pid];
  for (let parent = queue.pop(); parent !== undefined; parent = queue.pop()) {
    for (const child of children(parent)) {
      queue.push(child);
      const identity = identifyProcess(child);
      if (identity !== undefined) found.push(identity);
    }
  }
  return found;
}

function children(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
      readFileSync(`/proc/${pid}/task/${thread}/children`, 'latin1')
        .split(' ')
        .filter((word) => word !== '')
        .map(Number),
    );
  } catch (err) {
    if (!isErrno(err, 'ENOENT', 'ESRCH')) throw err;
    if (readProcessStat(pid) === undefined) return [];
    // The kernel was built without CONFIG_PROC_CHILDREN, or a thread ended while we looked.
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name) && readProcessStat(Number(name))?.parentPid === pid)
      .map(Number);
  }
}

/**
 * Starts one of the project's own Node programs with an IPC channel, on the running Node, with a small heap and nothing
 * of the daemon's environment. `entry` is an absolute path, `.ts` in development and `.js` when bundled. The caller ends
 * it; it should end by itself on `disconnect`. Its stdin and stdout are `/dev/null`, its stderr is a pipe to be read.
 */
export function forkChild(entry: string, env: Readonly<Record<string, string>> = {}): ChildProcess {
  return fork(entry, [], {
    execPath: process.execPath,
    execArgv: ['--max-semi-space-size=1'],
    env: { PATH: CHILD_PATH, ...env },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
}
