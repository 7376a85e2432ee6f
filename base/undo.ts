/**
 * The way back of a creation in several steps. Each step registers how to take itself back *before* it runs, since it
 * may half succeed; `commit()` keeps everything; leaving the scope earlier runs the steps in reverse. A step that fails
 * is reported and the rest still run.
 */
export class Undo implements AsyncDisposable {
  readonly #steps: { name: string; fn: (signal: AbortSignal) => Promise<void> }[] = [];
  readonly #onError: (step: string, err: unknown) => void;
  readonly #stepTimeoutMs: number;
  /** Names of the steps whose undo failed, in the order they were tried. */
  readonly failed: string[] = [];

  constructor(onError: (step: string, err: unknown) => void, { stepTimeoutMs = 10_000 } = {}) {
    this.#onError = onError;
    this.#stepTimeoutMs = stepTimeoutMs;
  }

  /** Registers the way back of a step that is about to run. It gets a fresh signal: the caller's is often why we undo. */
  step(name: string, fn: (signal: AbortSignal) => Promise<void>): void {
    this.#steps.push({ name, fn });
  }

  /** Keeps everything: the creation succeeded. */
  commit(): void {
    this.#steps.length = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.fn(AbortSignal.timeout(this.#stepTimeoutMs));
      } catch (err) {
        this.failed.push(step.name);
        this.#onError(step.name, err);
      }
    }
  }
}
