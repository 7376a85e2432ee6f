/**
 * One queue per id: whoever acquires an id runs alone until it lets go.
 *
 * Invariants: waiters are served in the order they asked; an aborted waiter leaves the queue and takes nothing; a lock
 * is not re-entrant, so a holder must not ask for the same id again; to hold two ids, take the sandbox's before the
 * container's.
 */
export class Locks {
  readonly #tails = new Map<string, Promise<void>>();

  /** Waits for the turn. Hold it with `await using`. Rejects with the signal's reason when that comes first. */
  async acquire(id: string, signal: AbortSignal): Promise<AsyncDisposable> {
    signal.throwIfAborted();
    const before = this.#tails.get(id);
    const mine = Promise.withResolvers<void>();
    const tail = (before ?? Promise.resolve()).then(() => mine.promise);
    this.#tails.set(id, tail);
    void tail.then(() => {
      if (this.#tails.get(id) === tail) this.#tails.delete(id);
    });
    if (before !== undefined) {
      try {
        await raceAbort(before, signal);
      } catch (err) {
        mine.resolve(); // our place passes the turn on as soon as it comes
        throw err;
      }
    }
    return {
      [Symbol.asyncDispose]: async () => mine.resolve(),
    };
  }

  /** True while someone holds or waits for the id. */
  isBusy(id: string): boolean {
    return this.#tails.has(id);
  }
}

function raceAbort(turn: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    void turn.then(() => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    });
  });
}

/** At most `limit` at once; the rest wait in order. */
export class Semaphore {
  #limit: number;
  readonly #waiting: (() => void)[] = [];
  #held = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Changes how many may run at once; those that do go on. */
  resize(limit: number): void {
    this.#limit = limit;
    while (this.#held < this.#limit) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#held += 1;
      next();
    }
  }

  /** Runs `work` when a place is free. An aborted waiter leaves the queue. */
  async run<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    await this.#enter(signal);
    try {
      return await work();
    } finally {
      const next = this.#held > this.#limit ? undefined : this.#waiting.shift();
      if (next === undefined) this.#held -= 1;
      else next();
    }
  }

  #enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#held < this.#limit) {
      this.#held += 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const turn = (): void => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(signal.reason);
      };
      this.#waiting.push(turn);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }
}
