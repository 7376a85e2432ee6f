import { CriError } from '#base/errors.ts';
import { identifyProcess, isAlive } from '#base/process.ts';
import { type ExecTree, killExec, killPipeHolders } from './exec-tree.ts';

/** How long killed processes may take to go. */
const KILL_TIMEOUT_MS = 5_000;
/** Between two looks at the command and its container. */
const LOOK_MS = 250;
/** For how long a runtime may stay after its command. */
const LINGER_MS = 1_000;
/** How long a runtime may take to begin the command. */
const START_MS = 120_000;
/** For how long a command may outlive its container: where they share a PID namespace it does not end by itself. */
const ORPHANED_MS = 2_000;
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface WatchOptions {
  /** For messages: `exec in container 3f2a…`. */
  readonly where: string;
  readonly signal: AbortSignal;
  /** 0 waits for ever. */
  readonly timeoutMs: number;
  /** For the message of the timeout. */
  readonly command: string;
  /** Told of the command's pid once it runs. */
  readonly onBegun: (pid: number) => void;
}

/**
 * Waits for the end of an exec. When the signal fires, the time is up, the runtime does not begin, or the container has
 * ended without it, the command and all that it started are killed first.
 * @throws {CriError} `deadlineExceeded`, `failedPrecondition` when the container ended; the signal's reason.
 */
export async function watchExec<T>(tree: ExecTree, ended: Promise<T>, { where, signal, timeoutMs, command, onBegun }: WatchOptions): Promise<T> {
  const { promise: interrupted, reject: interrupt } = Promise.withResolvers<never>();
  const onAbort = (): void => interrupt(signal.reason);
  const onTimeout = (): void => interrupt(new CriError('deadlineExceeded', `${where}: command ${command} timed out after ${timeoutMs / 1_000} s`));
  const timer = timeoutMs > 0 ? setTimeout(onTimeout, Math.min(timeoutMs, MAX_TIMER_MS)) : undefined;
  const look = setInterval(watcher(tree, { where, interrupt, onBegun }), LOOK_MS);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([ended, interrupted]);
  } catch (err) {
    ended.catch(() => {}); // it ends of the killing
    await killExec(tree, KILL_TIMEOUT_MS);
    throw err;
  } finally {
    clearTimeout(timer);
    clearInterval(look);
    signal.removeEventListener('abort', onAbort);
  }
}

/** What happens that no event tells of. */
function watcher(
  tree: ExecTree,
  { where, interrupt, onBegun }: Pick<WatchOptions, 'where' | 'onBegun'> & { interrupt: (reason: CriError) => void },
): () => void {
  let begun = false;
  const began = performance.now();
  let commandGoneAt: number | undefined;
  let containerGoneAt: number | undefined;
  return () => {
    const now = performance.now();
    const pid = tree.commandPid();
    if (pid === undefined) {
      if (now - began >= START_MS)
        interrupt(new CriError('deadlineExceeded', `${where}: the OCI runtime did not begin the command within ${START_MS / 1_000} s`));
    } else if (identifyProcess(pid) !== undefined) {
      if (!begun) onBegun(pid);
      begun = true;
    } else {
      commandGoneAt ??= now;
      // Frees a runtime that stays after its command; see `killPipeHolders`.
      if (now - commandGoneAt >= LINGER_MS) killPipeHolders(tree);
    }
    if (isAlive(tree.init)) return;
    containerGoneAt ??= now;
    if (now - containerGoneAt >= ORPHANED_MS) interrupt(new CriError('failedPrecondition', `${where}: the container has ended`));
  };
}
