/** What is read of a pipe or a socket at a time, and what goes before it: a channel's number, or the head of a SPDY frame. */
const BUFFER_BYTES = 64 * 1024 + 8;

/** Buffers for messages on their way, to be used again once they are sent: garbage of this size costs more than copying. */
export class MessageBuffers {
  readonly #free: Buffer[] = [];

  /** Exactly `length` bytes, filled by `fill`. The answer's `release` is to be called once nobody reads them any more. */
  make(length: number, fill: (message: Buffer) => void): { readonly message: Buffer; readonly release: () => void } {
    const whole = (length <= BUFFER_BYTES ? this.#free.pop() : undefined) ?? Buffer.allocUnsafeSlow(Math.max(length, BUFFER_BYTES));
    const message = whole.subarray(0, length);
    fill(message);
    return { message, release: () => void (whole.length === BUFFER_BYTES && this.#free.push(whole)) };
  }
}
