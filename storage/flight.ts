/** Work that several callers want: done once, for all of them, and ended when none is left. */
interface Flight<T> {
  readonly result: Promise<T>;
  readonly controller: AbortController;
  wanted: number;
  /** How many have left: the grace begins anew with the last of them. */
  left: number;
}

export interface JoinOptions {
  readonly signal: AbortSignal;
  /** How long work that nobody wants any more waits for a caller to come back. Default 0. */
  readonly graceMs?: number;
  /** When the work that was joined fails, do it again as one's own: it may have failed for its starter's credentials. */
  readonly retryOwn?: boolean;
}

/**
 * One piece of work per key. Each caller has its own signal: when it fires that caller leaves, and the work's own signal
 * fires once all have left. Without a grace the last to leave waits until the work has ended.
 */
export class Flights<T> {
  readonly #flights = new Map<string, Flight<T>>();

  /** Joins the work of this key, or starts it. */
  async join(key: string, work: (signal: AbortSignal) => Promise<T>, options: JoinOptions): Promise<T> {
    for (;;) {
      options.signal.throwIfAborted();
      const running = this.#flights.get(key);
      const flight = running ?? this.#start(key, work);
      try {
        return await this.#wait(key, flight, options);
      } catch (err) {
        options.signal.throwIfAborted();
        if (running === undefined || options.retryOwn !== true) throw err;
      }
    }
  }

  /** How many callers wait for the work of this key. */
  wanted(key: string): number {
    return this.#flights.get(key)?.wanted ?? 0;
  }

  /** True while there is work of this key. */
  has(key: string): boolean {
    return this.#flights.has(key);
  }

  /** Ends all work and waits until it has ended. */
  async abortAll(reason: unknown): Promise<void> {
    const flights = [...this.#flights.values()];
    for (const { controller } of flights) controller.abort(reason);
    await Promise.allSettled(flights.map(({ result }) => result));
  }

  #start(key: string, work: (signal: AbortSignal) => Promise<T>): Flight<T> {
    const controller = new AbortController();
    const flight: Flight<T> = { result: work(controller.signal), controller, wanted: 0, left: 0 };
    this.#flights.set(key, flight);
    flight.result.catch(() => {}).finally(() => this.#forget(key, flight));
    return flight;
  }

  #wait(key: string, flight: Flight<T>, { signal, graceMs = 0 }: JoinOptions): Promise<T> {
    flight.wanted += 1;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        flight.wanted -= 1;
        flight.left += 1;
        const { left } = flight;
        const endUnwanted = (): void => {
          if (flight.wanted > 0 || flight.left !== left) return;
          this.#forget(key, flight); // a newcomer starts afresh rather than joining what is ending
          flight.controller.abort(signal.reason);
        };
        const leave = (): void => reject(signal.reason);
        if (graceMs > 0) {
          setTimeout(endUnwanted, graceMs).unref();
          leave();
        } else {
          endUnwanted();
          // The last one sees to it that nothing is left behind.
          if (flight.controller.signal.aborted) void flight.result.then(leave, leave);
          else leave();
        }
      };
      signal.addEventListener('abort', onAbort, { once: true });
      flight.result
        .then(resolve, (err: unknown) => reject(signal.aborted ? signal.reason : err))
        .finally(() => signal.removeEventListener('abort', onAbort))
        .catch(() => {});
    });
  }

  #forget(key: string, flight: Flight<T>): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
  }
}
