import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CriError, isErrno, quote } from '#base/errors.ts';
import { CommandError, Pipe, type SpawnedProcess, spawnProcess } from '#base/exec.ts';
import { identifyProcess, isAlive, type ProcessIdentity } from '#base/process.ts';
import { runtimeMessage } from '../../conmon/conmon.ts';
import { drain, Output } from './exec-output.ts';
import { type ExecTree, killExec, killPipeHolders } from './exec-tree.ts';

/** What an exec needs to know of its container. */
export interface ExecTarget {
  readonly id: string;
  readonly runtimePath: string;
  readonly runtimeRoot: string;
  /** Where two files lie while the command runs. */
  readonly bundle: string;
  readonly init: ProcessIdentity;
  /** The pids in the container's cgroup now. */
  readonly cgroupProcs: () => readonly number[];
  /** `process` of the container's `config.json`: user, environment, capabilities and the rest are the container's own. */
  readonly process: object;
}

export interface ExecResult {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly exitCode: number;
}

export interface ExecOptions {
  /** 0 waits for ever. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Of stdout and stderr each; what is more is dropped. Default 16 MiB, as CRI says of ExecSync. */
  readonly maxOutputBytes?: number;
}

const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;
/** How long killed processes may take to go. */
const KILL_TIMEOUT_MS = 5_000;
/** Between two looks whether the command is gone while its runtime stays. */
const LOOK_MS = 250;
/** For how long a runtime may stay after its command. */
const LINGER_MS = 1_000;
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Runs a command in a running container to its end, without a terminal and with nothing on stdin. When the time is up or
 * the caller has gone, the command and all that it started are killed first.
 * @throws {CriError} `failedPrecondition` when the container does not run, `deadlineExceeded` after `timeoutMs`,
 * `unknown` with the runtime's words when the command could not be started.
 */
export async function execSync(target: ExecTarget, command: readonly string[], options: ExecOptions): Promise<ExecResult> {
  const { signal, timeoutMs, maxOutputBytes = MAX_OUTPUT_BYTES } = options;
  const where = `exec in container ${target.id}`;
  signal.throwIfAborted();
  if (command.length === 0) throw new CriError('invalidArgument', `${where}: command is empty`);
  if (!isAlive(target.init)) throw new CriError('failedPrecondition', `${where}: container is not running`);

  using scratch = new Scratch(target, command);
  using outPipe = new Pipe();
  using errPipe = new Pipe();
  const runtime = await startRuntime(target, scratch, [outPipe, errPipe]);
  using stdout = new Output(outPipe.stream(), maxOutputBytes);
  using stderr = new Output(errPipe.stream(), maxOutputBytes);
  let runtimePid: number | undefined = runtime.pid; // not to be touched once it has been reaped
  const exited = runtime.exited.finally(() => {
    runtimePid = undefined;
  });
  const tree: ExecTree = { runtimePid: () => runtimePid, commandPid: () => scratch.readPid(), cgroupProcs: target.cgroupProcs, init: target.init };

  const { promise: interrupted, reject: interrupt } = Promise.withResolvers<never>();
  const onAbort = (): void => interrupt(signal.reason);
  const onTimeout = (): void =>
    interrupt(new CriError('deadlineExceeded', `${where}: command ${quote(command.join(' '))} timed out after ${timeoutMs / 1_000} s`));
  const timer = timeoutMs > 0 ? setTimeout(onTimeout, Math.min(timeoutMs, MAX_TIMER_MS)) : undefined;
  const look = watchForLinger(tree);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  let exitCode: number;
  try {
    const end = await Promise.race([exited, interrupted]);
    if (end.exitCode === undefined) throw new CriError('unknown', `${where}: ${basename(target.runtimePath)} was killed by ${end.signal}`);
    exitCode = end.exitCode;
  } catch (err) {
    await killExec(tree, KILL_TIMEOUT_MS);
    throw err;
  } finally {
    clearTimeout(timer);
    clearInterval(look);
    signal.removeEventListener('abort', onAbort);
  }
  await drain([stdout, stderr]);
  // The runtime writes the pid file once the command runs; before that the exit code and stderr are its own.
  if (exitCode !== 0 && scratch.readPid() === undefined) throw notStarted(target, where, stderr);
  return { stdout: stdout.bytes(), stderr: stderr.bytes(), exitCode };
}

/**
 * Ends the commands that a dead daemon had started in a container: nobody waits for them, and their time limits died with
 * it. They are told by the files that each leaves in the bundle while it runs.
 */
export async function endLeftExecs(target: Pick<ExecTarget, 'bundle' | 'cgroupProcs' | 'init'>): Promise<void> {
  const names = (await readdir(target.bundle)).filter((name) => /^exec-[0-9a-f]{16}\.json$/.test(name));
  for (const name of names) {
    const paths = { process: join(target.bundle, name), pid: join(target.bundle, name.replace('.json', '.pid')) };
    const runtime = findProcess(paths.process);
    const tree: ExecTree = {
      runtimePid: () => (runtime !== undefined && isAlive(runtime) ? runtime.pid : undefined),
      commandPid: () => readPidFile(paths.pid),
      cgroupProcs: target.cgroupProcs,
      init: target.init,
    };
    await killExec(tree, KILL_TIMEOUT_MS);
    for (const path of [paths.process, paths.pid]) rmSync(path, { force: true });
  }
}

/** The runtime that was given this file on its command line. */
function findProcess(argument: string): ProcessIdentity | undefined {
  const pid = readdirSync('/proc').find((entry) => {
    if (!/^\d+$/.test(entry)) return false;
    try {
      return readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0').includes(argument);
    } catch (err) {
      if (isErrno(err, 'ENOENT', 'ESRCH')) return false;
      throw err;
    }
  });
  return pid === undefined ? undefined : identifyProcess(Number(pid));
}

async function startRuntime(target: ExecTarget, scratch: Scratch, [out, err]: readonly [Pipe, Pipe]): Promise<SpawnedProcess> {
  const args = [`--root=${target.runtimeRoot}`, 'exec', '--process', scratch.processPath, '--pid-file', scratch.pidPath, target.id];
  try {
    const runtime = await spawnProcess(target.runtimePath, args, { stdio: ['ignore', out.writeEnd, err.writeEnd], cwd: target.bundle });
    out.closeWrite();
    err.closeWrite();
    return runtime;
  } catch (cause) {
    if (!(cause instanceof CommandError)) throw cause;
    throw new CriError('failedPrecondition', `exec in container ${target.id}: runtime ${target.runtimePath} could not be started`, { cause });
  }
}

function notStarted(target: ExecTarget, where: string, stderr: Output): CriError {
  if (!isAlive(target.init)) return new CriError('failedPrecondition', `${where}: container is not running`);
  const said = runtimeMessage(stderr.bytes().toString('utf8')) || 'failed without a word';
  return new CriError('unknown', `${where}: ${basename(target.runtimePath)}: ${said}`);
}

/** Frees a runtime that stays after its command has ended; see `killPipeHolders`. */
function watchForLinger(tree: ExecTree): NodeJS.Timeout {
  let goneAt: number | undefined;
  return setInterval(() => {
    const pid = tree.commandPid();
    if (pid === undefined || identifyProcess(pid) !== undefined) return;
    goneAt ??= performance.now();
    if (performance.now() - goneAt >= LINGER_MS) killPipeHolders(tree);
  }, LOOK_MS);
}

/** The two files of one exec: the process for the runtime to read, the pid that it writes. In the bundle, which is a tmpfs. */
class Scratch implements Disposable {
  readonly processPath: string;
  readonly pidPath: string;

  constructor(target: ExecTarget, command: readonly string[]) {
    const name = join(target.bundle, `exec-${randomBytes(8).toString('hex')}`);
    this.processPath = `${name}.json`;
    this.pidPath = `${name}.pid`;
    writeFileSync(this.processPath, JSON.stringify({ ...target.process, args: command, terminal: false }), { mode: 0o600, flag: 'wx' });
  }

  /** Of the command, in the host's numbers; `undefined` before it runs. */
  readPid(): number | undefined {
    return readPidFile(this.pidPath);
  }

  [Symbol.dispose](): void {
    for (const path of [this.processPath, this.pidPath]) rmSync(path, { force: true });
  }
}

function readPidFile(path: string): number | undefined {
  try {
    const pid = Number(readFileSync(path, 'latin1'));
    return pid > 0 ? pid : undefined;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}
