import { isAbort } from '#base/abort.ts';
import type { Log } from '#base/log.ts';

/** Work that outlives the call that began it. Nothing here is lost: a failure is logged, and the daemon's stop waits. */
export class Background {
  readonly #running = new Set<Promise<void>>();
  readonly #log: Log;
  readonly #signal: AbortSignal;

  constructor(log: Log, signal: AbortSignal) {
    this.#log = log;
    this.#signal = signal;
  }

  start(name: string, work: () => Promise<void>): void {
    const running = (async () => {
      try {
        await work();
      } catch (err) {
        if (!(this.#signal.aborted && isAbort(err))) this.#log.warn({ err, step: name }, 'Failed background work');
      }
    })();
    this.#running.add(running);
    void running.finally(() => this.#running.delete(running));
  }

  /** Resolves when nothing runs any more. */
  async settled(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}
