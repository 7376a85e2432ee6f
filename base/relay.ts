import type { Writable } from 'node:stream';

/** Of one read. */
const BUFFER_BYTES = 64 * 1024;
/** Less than this does not keep a whole buffer waiting: it is copied. */
const SMALL_BYTES = 4 * 1024;
/** What a piece takes beside its bytes, be it one. */
export const PIECE_BYTES = 512;

/**
 * What a source reads, on its way to a sink that may be slow: the source is held back when the sink says so, and also when
 * all that waits, counted with what each piece takes beside its bytes, is twice what the sink has room for.
 */
export class Relay {
  readonly #sink: Writable | undefined;
  readonly #resume: () => void;
  readonly #free: Buffer[] = [];
  #waiting = 0;
  #received = 0;
  #held = false;

  /** Without a sink what comes is dropped. The sink is not ended. `resume` is called when a source that was held may go on. */
  constructor(sink: Writable | undefined, resume: () => void) {
    this.#sink = sink;
    this.#resume = resume;
  }

  /** For a source that reads into buffers of ours, see net.Socket: they are used again, since garbage of this size is costly. */
  readonly onread = {
    buffer: (): Buffer => this.#free.pop() ?? Buffer.allocUnsafeSlow(BUFFER_BYTES),
    callback: (length: number, buffer: Uint8Array): boolean => {
      const release = (): void => void this.#free.push(buffer as Buffer);
      if (length >= SMALL_BYTES) return this.take(buffer.subarray(0, length), release);
      const piece = Buffer.from(buffer.subarray(0, length));
      release();
      return this.take(piece);
    },
  };

  /** False when the source is to stop until `resume` is called. `release` is called when the piece's memory is no longer used. */
  take(piece: Uint8Array, release: () => void = () => {}): boolean {
    this.#received += piece.length;
    const sink = this.#sink;
    if (sink === undefined || sink.destroyed) {
      release();
      return true;
    }
    const cost = piece.length + PIECE_BYTES;
    this.#waiting += cost;
    const more = sink.write(piece, () => {
      this.#waiting -= cost;
      release();
      this.#goOn(sink);
    });
    this.#held = !more || this.#waiting >= 2 * sink.writableHighWaterMark;
    return !this.#held;
  }

  /** Bytes so far, dropped ones too. */
  get received(): number {
    return this.#received;
  }

  /** The source is stopped. */
  get held(): boolean {
    return this.#held;
  }

  #goOn(sink: Writable): void {
    if (!this.#held || sink.writableNeedDrain || this.#waiting >= sink.writableHighWaterMark) return;
    this.#held = false;
    this.#resume();
  }
}
