import { orAborted } from '#base/abort.ts';

/**
 * Keeps GC apart from ADD and DEL, which GC must not run beside (CNI spec 1.1, GC): it would take away what an ADD is
 * making. GC waits for a moment in which nothing runs and never makes a running ADD's followers wait for it to come;
 * only while it is at work do they wait.
 */
export class Gate {
  #running = 0;
  #idle: (() => void)[] = [];
  #closed: Promise<void> | undefined;

  /** Runs an ADD or a DEL. */
  async pass<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    while (this.#closed !== undefined) await orAborted(this.#closed, signal);
    this.#running += 1;
    try {
      return await work();
    } finally {
      this.#running -= 1;
      if (this.#running === 0) for (const wake of this.#idle.splice(0)) wake();
    }
  }

  /** Runs a GC, alone. Rejects with the signal's reason when no idle moment comes before it. */
  async alone<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    while (this.#running > 0 || this.#closed !== undefined) {
      await orAborted(this.#closed ?? new Promise<void>((resolve) => this.#idle.push(resolve)), signal);
    }
    const done = Promise.withResolvers<void>();
    this.#closed = done.promise;
    try {
      return await work();
    } finally {
      this.#closed = undefined;
      done.resolve();
    }
  }
}
