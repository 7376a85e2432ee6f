/** How long a client may take to hear that its session is over. */
const LINGER_MS = 10_000;

/** Notices when nothing passes on a connection. A client that does not take the end of its session either is cut off. */
export class IdleClock {
  #timer: NodeJS.Timeout;
  #isOver = false;

  /** `idle` is called once, when nothing has passed for `timeoutMs`, and is to end the session; `cutOff` 10 s later. */
  constructor(timeoutMs: number, { idle, cutOff }: { readonly idle: () => void; readonly cutOff: () => void }) {
    this.#timer = setTimeout(() => {
      this.#isOver = true;
      this.#timer = setTimeout(cutOff, LINGER_MS);
      idle();
    }, timeoutMs);
  }

  /** Something has passed. */
  refresh(): void {
    if (!this.#isOver) this.#timer.refresh();
  }

  /** The connection has ended. */
  stop(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }
}
