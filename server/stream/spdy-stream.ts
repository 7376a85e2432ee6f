import { Duplex } from 'node:stream';
import type { Headers } from './spdy-headers.ts';

/**
 * What waits in one stream: unread, for with more of it the whole connection waits, since SPDY/3.1 as Kubernetes speaks it
 * has no windows; and unsent, three reads of a pipe, so that whoever writes is not stopped and started for each.
 */
export const AHEAD = { readableHighWaterMark: 256 * 1024, writableHighWaterMark: 192 * 1024 };
/** The same for streams of a connection that has many: together they are to stay small. */
export const LITTLE_AHEAD = { readableHighWaterMark: 16 * 1024, writableHighWaterMark: 16 * 1024 };

/** What a stream asks of its connection. */
export interface Link {
  /** `done` when the bytes have been handed over, or nobody is left to take them. */
  write(stream: SpdyStream, bytes: Buffer, fin: boolean, done: () => void): void;
  /** The stream's reader has enough for now: nothing more is to be read for anybody, until as many `unblock`s. */
  block(): void;
  unblock(): void;
  reset(stream: SpdyStream): void;
  drop(stream: SpdyStream): void;
}

/**
 * One stream. The two directions end apart. It never emits `error`: `close` without `end` tells that it was cut off. The
 * callback of a write comes when the kernel has the bytes: their buffer may then be used again.
 */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: Headers;
  readonly #link: Link;
  #blocking = false;
  #finSent = false;
  #finReceived = false;
  #wasCutOff = false;

  constructor(link: Link, id: number, headers: Headers, ahead: typeof AHEAD) {
    super({ allowHalfOpen: true, ...ahead });
    this.#link = link;
    this.id = id;
    this.headers = headers;
    this.on('error', () => {}); // of a write that came after the end: whoever wrote learns of it by `close`
  }

  /** Takes what the client sent. */
  receive(piece: Buffer, fin: boolean): void {
    if (this.#finReceived) return;
    if (piece.length > 0 && !this.push(piece) && !this.#blocking) {
      this.#blocking = true;
      this.#link.block();
    }
    if (!fin) return;
    this.#finReceived = true;
    this.push(null);
    this.#unblock(); // no more will come, and an ended stream is not asked to read
    this.#dropWhenDone();
  }

  /** The client has reset it, or has gone. */
  get wasCutOff(): boolean {
    return this.#wasCutOff;
  }

  /** Ends at once, without a word to the client: it has gone or has reset the stream. */
  cutOff(): void {
    this.#wasCutOff = true;
    this.destroy();
  }

  override _read(): void {
    this.#unblock();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#link.write(this, chunk, false, done);
  }

  override _final(done: () => void): void {
    this.#finSent = true;
    this.#link.write(this, Buffer.alloc(0), true, done);
    this.#dropWhenDone();
  }

  override _destroy(_err: Error | null, done: (err?: Error | null) => void): void {
    if (!this.#wasCutOff && !(this.#finSent && this.#finReceived)) this.#link.reset(this);
    this.#link.drop(this);
    this.#unblock();
    done();
  }

  #unblock(): void {
    if (!this.#blocking) return;
    this.#blocking = false;
    this.#link.unblock();
  }

  #dropWhenDone(): void {
    if (this.#finSent && this.#finReceived) this.#link.drop(this);
  }
}
