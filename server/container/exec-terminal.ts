import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { orAborted } from '#base/abort.ts';
import { CriError, describeError, quote } from '#base/errors.ts';
import { Relay } from '#base/relay.ts';
import { type Attached, type ExecMonitor, resize, startExecMonitor } from '../../conmon/conmon.ts';
import type { RemoteSession, TerminalSize } from '../stream/session.ts';
import { checkExec } from './exec.ts';
import { type ExecProcess, Scratch } from './exec-scratch.ts';
import type { ExecTarget } from './exec-target.ts';
import { type ExecTree, setOomScore } from './exec-tree.ts';
import { watchExec } from './exec-watch.ts';

export interface TerminalOptions {
  readonly conmonPath: string;
  /** Where each exec has a directory of its own: a short path, since sockets lie in it. */
  readonly directory: string;
}

/**
 * Runs a command with a terminal for a client, below a monitor of its own, which holds the other side of the terminal:
 * with both crun and runc sizes reach it there. The terminal has the client's size before the command begins. When the
 * client goes, the command and all that it started are killed.
 * @returns the exit code.
 * @throws {CriError} as `execSync`.
 */
export async function execTerminal(target: ExecTarget, command: readonly string[], session: RemoteSession, options: TerminalOptions): Promise<number> {
  const { signal, terminal, stdin } = session;
  const where = checkExec(target, command, signal);
  const process = (): ExecProcess => ({ args: command, terminal: true, ...sizeOf(terminal?.latest) });
  using scratch = new Scratch(target, process());
  using home = new Home(join(options.directory, scratch.name));
  using monitor = await start(target, scratch, home.path, options.conmonPath, session, where);
  let pid: number | undefined = monitor.monitor.pid;
  void monitor.monitor.exited.then(() => {
    pid = undefined;
  });
  const tree: ExecTree = {
    runtimePid: () => pid,
    commandPid: () => scratch.readPid(),
    cgroup: scratch.cgroup,
    cgroupProcs: target.cgroupProcs,
    init: target.init,
  };
  // Once more, with the size that may have come meanwhile: the runtime reads it now.
  scratch.write(process());
  const unfollow = terminal?.follow(({ width, height }) => void resize(home.path, width, height).catch(() => {})); // it has ended
  try {
    monitor.begin();
    if (stdin !== undefined) void feed(stdin, monitor.terminal).catch(() => {}); // the session has ended
    const exitCode = await watchExec(tree, ended(monitor, where), {
      where,
      signal,
      timeoutMs: 0,
      command: quote(command.join(' ')),
      onBegun: (pid) => setOomScore(pid, target),
    });
    // It goes with its last output; its directory is not to be taken from under it.
    await orAborted(Promise.all([monitor.terminal.closed, monitor.monitor.exited]), signal);
    return exitCode;
  } finally {
    unfollow?.();
  }
}

async function start(target: ExecTarget, scratch: Scratch, directory: string, conmonPath: string, session: RemoteSession, where: string): Promise<ExecMonitor> {
  const { id, runtimePath, runtimeRoot } = target;
  const { processPath, pidPath, cgroup } = scratch;
  const { stdout, signal } = session;
  let made: ExecMonitor | undefined;
  // The monitor serves this client alone: what it does not read may hold the command back.
  const relay = new Relay(stdout, () => made?.terminal.resume());
  const onOutput = (bytes: Buffer): void => {
    if (!relay.take(bytes)) made?.terminal.pause();
  };
  const place = async (pid: number): Promise<void> => {
    setOomScore(pid, target);
    await cgroup.place?.(pid);
  };
  try {
    made = await startExecMonitor(
      { id, conmonPath, runtimePath, runtimeRoot, execArgs: cgroup.runtimeArgs, directory, processPath, pidPath, place },
      onOutput,
      { signal },
    );
    return made;
  } catch (err) {
    throw told(err, where, signal);
  }
}

async function ended(monitor: ExecMonitor, where: string): Promise<number> {
  try {
    return await monitor.ended;
  } catch (err) {
    throw told(err, where);
  }
}

const told = (err: unknown, where: string, signal?: AbortSignal): unknown =>
  err instanceof CriError && err !== signal?.reason ? new CriError(err.kind, `${where}: ${describeError(err)}`, { cause: err.cause }) : err;

/** Keystrokes, in the order of their coming. The end of stdin means nothing to a terminal. */
export async function feed(stdin: Readable, into: Attached): Promise<void> {
  for await (const bytes of stdin) await into.write(bytes as Buffer);
}

function sizeOf(size: TerminalSize | undefined): Pick<ExecProcess, 'consoleSize'> {
  return size === undefined ? {} : { consoleSize: { width: size.width, height: size.height } };
}

/** The monitor's directory. */
class Home implements Disposable {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
    mkdirSync(path, { mode: 0o700 });
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
