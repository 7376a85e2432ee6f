import type { Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { sleep } from '#base/abort.ts';

/** What came out of one pipe: the first `maxBytes` are kept, the rest is read and dropped so that nobody is stalled. */
export class Output implements Disposable {
  readonly #stream: Socket;
  readonly #chunks: Buffer[] = [];
  #kept = 0;
  #received = 0;
  #ended = false;
  /** Fulfils when the last writer is gone. */
  readonly end: Promise<void>;

  constructor(stream: Socket, maxBytes: number) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      this.#received += chunk.length;
      const part = chunk.subarray(0, maxBytes - this.#kept);
      if (part.length > 0) this.#chunks.push(part);
      this.#kept += part.length;
    });
    stream.on('error', () => {}); // `close` follows
    this.end = new Promise((resolve) => {
      stream.once('close', () => {
        this.#ended = true;
        resolve();
      });
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Bytes read so far, dropped ones too. */
  get received(): number {
    return this.#received;
  }

  /** What was kept. */
  bytes(): Buffer {
    return Buffer.concat(this.#chunks, this.#kept);
  }

  [Symbol.dispose](): void {
    this.#stream.destroy();
  }
}

const QUIET_MS = 100;
const DRAIN_MS = 1_000;

/**
 * Waits for the output of a command that has ended: to the end of the pipes or, where something it left behind holds
 * them, until they have been quiet for 100 ms, at most 1 s.
 */
export async function drain(outputs: readonly Output[]): Promise<void> {
  const end = Promise.all(outputs.map((output) => output.end));
  const received = (): number => outputs.reduce((sum, output) => sum + output.received, 0);
  const deadline = performance.now() + DRAIN_MS;
  while (!outputs.every((output) => output.ended)) {
    const before = received();
    const quiet = new AbortController();
    await Promise.race([end, sleep(QUIET_MS, quiet.signal).catch(() => {})]);
    quiet.abort();
    await setImmediate(); // a late timer runs before the pipes are read
    if (received() === before || performance.now() > deadline) return;
  }
}
