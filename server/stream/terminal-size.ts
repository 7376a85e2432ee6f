import type { TerminalSize, TerminalSizes } from './session.ts';

/** One size is 30 bytes. */
const MAX_BUFFERED = 4_096;

/**
 * Reads the sizes a client sends: JSON objects `{"Width":80,"Height":24}`, one after the other, in pieces of any size.
 * What is none is passed over, and so are sizes of nothing, which clients without a terminal send.
 */
export class SizeReader implements TerminalSizes {
  #text = '';
  #latest: TerminalSize | undefined;
  readonly #listeners = new Set<(size: TerminalSize) => void>();

  get latest(): TerminalSize | undefined {
    return this.#latest;
  }

  follow(listener: (size: TerminalSize) => void): () => void {
    this.#listeners.add(listener);
    if (this.#latest !== undefined) listener(this.#latest);
    return () => this.#listeners.delete(listener);
  }

  push(bytes: Buffer): void {
    const parts = (this.#text + bytes.toString('latin1')).split('}');
    this.#text = (parts.pop() ?? '').slice(0, MAX_BUFFERED);
    for (const part of parts) {
      const size = parseSize(`${part}}`);
      if (size !== undefined) this.#publish(size);
    }
  }

  #publish(size: TerminalSize): void {
    this.#latest = size;
    for (const listener of this.#listeners) listener(size);
  }
}

/** The kernel keeps sizes in 16 bits; see ioctl_tty(2). */
const isLength = (value: unknown): value is number => typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 0xffff;

function parseSize(text: string): TerminalSize | undefined {
  try {
    const { Width: width, Height: height } = JSON.parse(text) as { Width?: unknown; Height?: unknown };
    return isLength(width) && isLength(height) ? { width, height } : undefined;
  } catch {
    return undefined;
  }
}
