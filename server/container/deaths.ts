import { orAborted } from '#base/abort.ts';

/** Wakes whoever waits for the end of a container's first process. */
export class Deaths {
  readonly #waiting = new Map<string, PromiseWithResolvers<void>>();

  /** Resolves at the next `announce(id)`. Check the state after calling this, then wait: so no end is missed. */
  wait(id: string, signal: AbortSignal): Promise<void> {
    let waiting = this.#waiting.get(id);
    if (waiting === undefined) {
      waiting = Promise.withResolvers<void>();
      this.#waiting.set(id, waiting);
    }
    return orAborted(waiting.promise, signal);
  }

  announce(id: string): void {
    this.#waiting.get(id)?.resolve();
    this.#waiting.delete(id);
  }
}
