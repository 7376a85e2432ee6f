import { orAborted, sleep } from '#base/abort.ts';
import type { Log } from '#base/log.ts';
import { sendDatagram } from '#base/sys.ts';

/** Tells the service manager how the daemon fares, by sd_notify(3). Does nothing where there is none. */
export interface Notifier {
  /** The daemon serves. */
  ready(): void;
  /** The daemon is about to end. */
  stopping(): void;
  /** The daemon is well. */
  alive(): void;
}

/** `socket` is `$NOTIFY_SOCKET`. A message that cannot be sent is logged: it is no reason to end. */
export function createNotifier(socket: string | undefined, log: Log): Notifier {
  const send = (message: string): void => {
    if (socket === undefined) return;
    try {
      sendDatagram(socket, message);
    } catch (err) {
      log.warn({ err, path: socket }, 'Could not notify service manager');
    }
  };
  return {
    ready: () => send(`READY=1\nMAINPID=${process.pid}`),
    stopping: () => send('STOPPING=1'),
    alive: () => send('WATCHDOG=1'),
  };
}

export interface WatchdogOptions {
  /** The service manager kills a daemon that is silent for this long. */
  readonly intervalMs: number;
  /** Rejects when the daemon does not serve; given half the interval. */
  readonly check: (signal: AbortSignal) => Promise<void>;
  readonly notify: Pick<Notifier, 'alive'>;
  readonly log: Log;
}

/**
 * Says that the daemon is alive as long as `check` succeeds. A timer alone would go on ticking in a daemon that answers
 * nobody, and then nothing would ever restart it.
 *
 * A check may take half the interval and the next begins a quarter after it, so that one slow check is not yet fatal.
 */
export function startWatchdog({ intervalMs, check, notify, log }: WatchdogOptions): AsyncDisposable {
  const stop = new AbortController();
  const watch = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      const limit = AbortSignal.any([stop.signal, AbortSignal.timeout(intervalMs / 2)]);
      try {
        // A check that ignores its signal must not hold up the watch.
        await orAborted(check(limit), limit);
        notify.alive();
      } catch (err) {
        if (stop.signal.aborted) return;
        log.error({ err }, 'Watchdog check failed');
      }
      await sleep(intervalMs / 4, stop.signal).catch(() => {});
    }
  };
  const watching = watch();
  return {
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      await watching;
    },
  };
}
