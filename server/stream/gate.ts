import type { Writable } from 'node:stream';

/**
 * Lets writers through to a transport while it takes more, in the order they came. So what waits for a slow peer waits
 * with whoever made it, and not in the transport's buffer.
 */
export class Gate {
  readonly #transport: Writable;
  #waiting: (() => void)[] = [];

  constructor(transport: Writable) {
    this.#transport = transport;
    transport.on('drain', () => this.#open());
    transport.on('close', () => this.#open());
  }

  /** Runs `write` now or as soon as it is its turn; once the transport is closed it is run too, to find that out. */
  pass(write: () => void): void {
    if (this.#waiting.length === 0 && this.#isOpen()) write();
    else this.#waiting.push(write);
  }

  #isOpen = (): boolean => this.#transport.destroyed || !this.#transport.writableNeedDrain;

  #open(): void {
    let next = 0;
    const waiting = this.#waiting;
    while (next < waiting.length && this.#isOpen()) {
      waiting[next]?.();
      next += 1;
    }
    waiting.splice(0, next);
  }
}
