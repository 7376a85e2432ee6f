import type { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { sleep } from '#base/abort.ts';
import type { Pipe } from '#base/pipe.ts';
import { Relay } from '#base/relay.ts';

/** The reading end of a command's stdout or stderr. */
export interface CommandOutput {
  /** The last writer is gone and all has been read. */
  readonly ended: boolean;
  /** Fulfils then. */
  readonly end: Promise<void>;
  /** Bytes read so far, dropped ones too. */
  readonly received: number;
  /** It is not being read at the moment, since whoever takes it is slow. */
  readonly held: boolean;
}

/** Less than this is put together with what comes before and after it: a command may print letter by letter. */
const SMALL_BYTES = 4 * 1024;
const BLOCK_BYTES = 16 * 1024;

/** What came out of one pipe: the first `maxBytes` are kept, the rest is read and dropped so that nobody is stalled. */
export class Output implements CommandOutput, Disposable {
  readonly held = false;
  readonly #stream: Socket;
  readonly #chunks: Buffer[] = [];
  /** For small pieces; what of it is in use and not among the chunks yet is from `#blockBegin` to `#blockEnd`. */
  #block = Buffer.alloc(0);
  #blockBegin = 0;
  #blockEnd = 0;
  #kept = 0;
  #received = 0;
  #ended = false;
  readonly end: Promise<void>;

  constructor(stream: Socket, maxBytes: number) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      this.#received += chunk.length;
      const part = chunk.subarray(0, maxBytes - this.#kept);
      if (part.length > 0) this.#keep(part);
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

  get received(): number {
    return this.#received;
  }

  #keep(part: Buffer): void {
    if (part.length >= SMALL_BYTES || this.#kept === 0) {
      this.#closeBlock();
      this.#chunks.push(part);
      return;
    }
    if (this.#blockEnd + part.length > this.#block.length) {
      this.#closeBlock();
      this.#block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
      this.#blockBegin = 0;
      this.#blockEnd = 0;
    }
    this.#blockEnd += part.copy(this.#block, this.#blockEnd);
  }

  #closeBlock(): void {
    if (this.#blockEnd > this.#blockBegin) this.#chunks.push(this.#block.subarray(this.#blockBegin, this.#blockEnd));
    this.#blockBegin = this.#blockEnd;
  }

  /** What was kept. */
  bytes(): Buffer {
    this.#closeBlock();
    return Buffer.concat(this.#chunks, this.#kept);
  }

  [Symbol.dispose](): void {
    this.#stream.destroy();
  }
}

/** One pipe on its way to a client, who holds it back by being slow: no more than a few reads are in memory. */
export class Pump implements CommandOutput, Disposable {
  readonly #source: Socket;
  readonly #relay: Relay;
  #ended = false;
  readonly end: Promise<void>;

  private constructor(source: Socket, relay: Relay) {
    this.#source = source;
    this.#relay = relay;
    source.on('error', () => {}); // `close` follows
    this.end = new Promise((resolve) => {
      source.once('close', () => {
        this.#ended = true;
        resolve();
      });
    });
  }

  /** Over a stream that is there already. Without a sink what comes is dropped. The sink is not ended. */
  static of(source: Socket, sink: Writable | undefined): Pump {
    const relay = new Relay(sink, () => source.resume());
    source.on('data', (chunk: Buffer) => {
      if (!relay.take(chunk)) source.pause();
    });
    return new Pump(source, relay);
  }

  /** The same over a pipe, with buffers that are used again. */
  static over(pipe: Pipe, sink: Writable | undefined): Pump {
    const relay: Relay = new Relay(sink, () => source.resume());
    const source = pipe.stream(relay.onread);
    const pump = new Pump(source, relay);
    source.resume();
    return pump;
  }

  get ended(): boolean {
    return this.#ended;
  }

  get received(): number {
    return this.#relay.received;
  }

  get held(): boolean {
    return this.#relay.held;
  }

  [Symbol.dispose](): void {
    this.#source.destroy();
  }
}

const QUIET_MS = 100;
const DRAIN_MS = 1_000;
/** Of what comes after the command's end: enough for all that pipes can hold, not for one who goes on for ever. */
const DRAIN_BYTES = 16 * 1024 * 1024;

/**
 * Waits for the output of a command that has ended: to the end of the pipes or, where something it left behind holds
 * them, until they have been quiet for 100 ms, at most 1 s. Time in which a client holds the output back does not count.
 */
export async function drain(outputs: readonly CommandOutput[], signal?: AbortSignal): Promise<void> {
  const end = Promise.all(outputs.map((output) => output.end));
  const received = (): number => outputs.reduce((sum, output) => sum + output.received, 0);
  const enough = received() + DRAIN_BYTES;
  let leftMs = DRAIN_MS;
  while (!outputs.every((output) => output.ended)) {
    signal?.throwIfAborted();
    const before = received();
    const began = performance.now();
    const heldBefore = isHeld(outputs);
    const quiet = new AbortController();
    await Promise.race([end, sleep(QUIET_MS, quiet.signal).catch(() => {})]);
    quiet.abort();
    await setImmediate(); // a late timer runs before the pipes are read
    if (received() > enough) return;
    if (heldBefore || isHeld(outputs)) continue;
    leftMs -= performance.now() - began;
    if (received() === before || leftMs <= 0) return;
  }
}

const isHeld = (outputs: readonly CommandOutput[]): boolean => outputs.some(({ held }) => held);
