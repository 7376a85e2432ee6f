import { basename } from 'node:path';
import { CriError, quote } from '#base/errors.ts';
import { CommandError, type SpawnedProcess, spawnProcess } from '#base/exec.ts';
import { Pipe } from '#base/pipe.ts';
import { isAlive } from '#base/process.ts';
import { fchown } from '#base/sys.ts';
import { runtimeMessage } from '../../conmon/conmon.ts';
import { drain, Output } from './exec-output.ts';
import { Scratch } from './exec-scratch.ts';
import type { ExecTarget } from './exec-target.ts';
import { type ExecTree, setOomScore } from './exec-tree.ts';
import { watchExec } from './exec-watch.ts';

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

/**
 * Runs a command in a running container to its end, without a terminal and with nothing on stdin. When the time is up or
 * the caller has gone, the command and all that it started are killed first.
 * @throws {CriError} `failedPrecondition` when the container does not run, `deadlineExceeded` after `timeoutMs`,
 * `unknown` with the runtime's words when the command could not be started.
 */
export async function execSync(target: ExecTarget, command: readonly string[], options: ExecOptions): Promise<ExecResult> {
  const { signal, timeoutMs, maxOutputBytes = MAX_OUTPUT_BYTES } = options;
  const where = checkExec(target, command, signal);
  using scratch = new Scratch(target, { args: command, terminal: false });
  using outPipe = new Pipe();
  using errPipe = new Pipe();
  const runtime = await startRuntime(target, scratch, { out: outPipe, err: errPipe });
  using stdout = new Output(outPipe.stream(), maxOutputBytes);
  using stderr = new Output(errPipe.stream(), maxOutputBytes);
  const exitCode = await watchExec(runtime.tree, runtime.ended, {
    where,
    signal,
    timeoutMs,
    command: quote(command.join(' ')),
    onBegun: (pid) => setOomScore(pid, target),
  });
  await drain([stdout, stderr]);
  // The runtime writes the pid file once the command runs; before that the exit code and stderr are its own.
  if (exitCode !== 0 && scratch.readPid() === undefined) throw notStarted(target, stderr.bytes());
  return { stdout: stdout.bytes(), stderr: stderr.bytes(), exitCode };
}

const whereOf = ({ id }: Pick<ExecTarget, 'id'>): string => `exec in container ${id}`;

/** What speaks against an exec before it begins. Returns the beginning of its messages. */
export function checkExec(target: ExecTarget, command: readonly string[], signal: AbortSignal): string {
  signal.throwIfAborted();
  const where = whereOf(target);
  if (command.length === 0) throw new CriError('invalidArgument', `${where}: command is empty`);
  if (!isAlive(target.init)) throw new CriError('failedPrecondition', `${where}: container is not running`);
  return where;
}

/** Of the runtime, after stdio. */
const HELD_FD = 3;

/** The OCI runtime in the foreground, with a command below it. */
export interface ExecRuntime {
  readonly tree: ExecTree;
  /** The command's exit code, or the runtime's own. Rejects with a `CriError` `unknown` when the runtime was killed. */
  readonly ended: Promise<number>;
}

/**
 * Has the OCI runtime execute a command on real pipes: through Node's own, which are sockets, `echo > /dev/stderr` fails.
 * The child's ends are closed here. Without a pipe for stdin it gets /dev/null.
 * @throws {CriError} `failedPrecondition` when the runtime cannot be started.
 */
export async function startRuntime(
  target: ExecTarget,
  scratch: Scratch,
  pipes: { readonly in?: Pipe; readonly out: Pipe; readonly err: Pipe },
): Promise<ExecRuntime> {
  const { runtimePath, runtimeRoot, bundle, id } = target;
  // The runtime does nothing before it has read the process: it is held by a pipe until it is in the exec's cgroup.
  using held = scratch.cgroup.place === undefined ? undefined : new Pipe();
  const processPath = held === undefined ? scratch.processPath : `/proc/self/fd/${HELD_FD}`;
  const args = [`--root=${runtimeRoot}`, 'exec', ...scratch.cgroup.runtimeArgs, '--process', processPath, '--pid-file', scratch.pidPath, id];
  const owner = target.streamOwner;
  if (owner !== undefined) for (const fd of [pipes.in?.readEnd, pipes.out.writeEnd, pipes.err.writeEnd]) if (fd !== undefined) fchown(fd, owner.uid, owner.gid);
  let runtime: SpawnedProcess;
  try {
    runtime = await spawnProcess(runtimePath, args, {
      stdio: [pipes.in?.readEnd ?? 'ignore', pipes.out.writeEnd, pipes.err.writeEnd, ...(held === undefined ? [] : [held.readEnd])],
      cwd: bundle,
    });
  } catch (cause) {
    if (!(cause instanceof CommandError)) throw cause;
    throw new CriError('failedPrecondition', `${whereOf(target)}: runtime ${runtimePath} could not be started`, { cause });
  }
  setOomScore(runtime.pid, target);
  pipes.in?.closeRead();
  pipes.out.closeWrite();
  pipes.err.closeWrite();
  let pid: number | undefined = runtime.pid; // not to be touched once it has been reaped
  const ended = runtime.exited.then(({ exitCode, signal }) => {
    pid = undefined;
    if (exitCode === undefined) throw new CriError('unknown', `${whereOf(target)}: ${basename(runtimePath)} was killed by ${signal}`);
    return exitCode;
  });
  ended.catch(() => {}); // told again by whoever waits for it
  held?.closeRead();
  await scratch.cgroup.place?.(runtime.pid);
  held?.fill(scratch.processText);
  const { cgroup } = scratch;
  return { tree: { runtimePid: () => pid, commandPid: () => scratch.readPid(), cgroup, cgroupProcs: target.cgroupProcs, init: target.init }, ended };
}

/** Why a command could not be started, by what the runtime printed. */
export function notStarted(target: ExecTarget, stderr: Buffer): CriError {
  const where = whereOf(target);
  if (!isAlive(target.init)) return new CriError('failedPrecondition', `${where}: container is not running`);
  const said = runtimeMessage(stderr.toString('utf8')) || 'failed without a word';
  return new CriError('unknown', `${where}: ${basename(target.runtimePath)}: ${said}`);
}
