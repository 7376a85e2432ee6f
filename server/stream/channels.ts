import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { Gate } from './gate.ts';
import { IdleClock } from './idle-clock.ts';
import { MessageBuffers } from './message-buffers.ts';

const READ_AHEAD_BYTES = 256 * 1024;
/** Three reads of a pipe: whoever writes is not stopped and started for each. */
const WRITE_AHEAD_BYTES = 192 * 1024;
/** Nothing tells of a peer's end while its socket is not read, so it is written to. */
const PROBE_MS = 1_000;
/** How long a client may take to close when all has been sent. */
const LINGER_MS = 10_000;

/** How messages carry a channel's number and bytes: as they are, or as a digit and base64 for clients that can only do text. */
export type Coding = 'binary' | 'base64';

export interface ChannelEvents {
  /** Nothing has passed for the idle timeout. */
  readonly idle: () => void;
  /** The connection has ended, once; with what the client did wrong, if it did. */
  readonly closed: (err: Error | undefined) => void;
}

/** A WebSocket that carries numbered channels of bytes: the first byte of each message is the number. */
export class ChannelSocket {
  readonly #ws: WebSocket;
  readonly #gate: Gate;
  readonly #coding: Coding;
  readonly #idle: IdleClock;
  readonly #buffers = new MessageBuffers();
  #probe: NodeJS.Timeout | undefined;
  #blocked = 0;
  #closing = false;

  /** `transport` is what the WebSocket writes to; `receive` is given each message. */
  constructor(
    ws: WebSocket,
    { transport, coding, idleTimeoutMs }: { readonly transport: Duplex; readonly coding: Coding; readonly idleTimeoutMs: number },
    receive: (channel: number, bytes: Buffer) => void,
    events: ChannelEvents,
  ) {
    this.#ws = ws;
    this.#coding = coding;
    this.#gate = new Gate(transport);
    this.#idle = new IdleClock(idleTimeoutMs, { idle: events.idle, cutOff: () => ws.terminate() });
    let failure: Error | undefined;
    ws.on('message', (message: Buffer) => {
      this.#idle.refresh();
      if (message.length > 0 && !this.#closing) receive(...this.#decode(message));
    });
    ws.on('error', (err) => {
      failure ??= err;
    });
    ws.on('close', () => {
      this.#idle.stop();
      clearInterval(this.#probe);
      events.closed(failure);
    });
  }

  get isOpen(): boolean {
    return this.#ws.readyState === this.#ws.OPEN;
  }

  /** `done` is called when the kernel has the message, and at once where the client has gone. */
  send(channel: number, bytes: Buffer, done: () => void = () => {}): void {
    this.#gate.pass(() => {
      this.#idle.refresh();
      if (!this.isOpen) done();
      else if (this.#coding === 'base64') this.#ws.send(String.fromCharCode(DIGIT_0 + channel) + bytes.toString('base64'), { binary: false }, () => done());
      else this.#sendBinary(channel, bytes, done);
    });
  }

  #sendBinary(channel: number, bytes: Buffer, done: () => void): void {
    const { message, release } = this.#buffers.make(1 + bytes.length, (buffer) => {
      buffer[0] = channel;
      bytes.copy(buffer, 1);
    });
    this.#ws.send(message, { binary: true }, () => {
      release();
      done();
    });
  }

  /** Closes once what is written has gone out. */
  close(): void {
    this.#closing = true;
    this.#ws.resume(); // for its end to be seen
    this.#gate.pass(() => {
      this.#ws.close(1000);
      const linger = setTimeout(() => this.#ws.terminate(), LINGER_MS);
      this.#ws.once('close', () => clearTimeout(linger));
    });
  }

  /** Reads no more messages until as many `unblock`s. */
  block(): void {
    this.#blocked += 1;
    if (this.#blocked > 1) return;
    this.#ws.pause();
    this.#probe = setInterval(() => this.isOpen && this.#ws.ping(), PROBE_MS);
  }

  unblock(): void {
    this.#blocked -= 1;
    if (this.#blocked > 0) return;
    clearInterval(this.#probe);
    this.#ws.resume();
  }

  #decode(message: Buffer): [number, Buffer] {
    const [first = 0] = message;
    if (this.#coding === 'binary') return [first, message.subarray(1)];
    return [first - DIGIT_0, Buffer.from(message.toString('latin1', 1), 'base64')];
  }
}

const DIGIT_0 = 48;

/**
 * One channel, as a stream. Its end cannot be told to the client, except by the end of everything; the client's end is
 * told to `receiveEnd`. It never emits `error`.
 */
export class Channel extends Duplex {
  readonly #socket: ChannelSocket;
  readonly #number: number;
  #blocking = false;
  #ended = false;

  constructor(socket: ChannelSocket, number: number) {
    super({ allowHalfOpen: true, readableHighWaterMark: READ_AHEAD_BYTES, writableHighWaterMark: WRITE_AHEAD_BYTES });
    this.#socket = socket;
    this.#number = number;
    this.on('error', () => {});
  }

  /** Takes what the client sent. */
  receive(bytes: Buffer): void {
    if (this.#ended || this.destroyed || bytes.length === 0) return;
    if (this.push(bytes) || this.#blocking) return;
    this.#blocking = true;
    this.#socket.block();
  }

  receiveEnd(): void {
    if (this.#ended || this.destroyed) return;
    this.#ended = true;
    this.push(null);
    this.#unblock();
  }

  override _read(): void {
    this.#unblock();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#socket.send(this.#number, chunk, done);
  }

  override _destroy(_err: Error | null, done: (err?: Error | null) => void): void {
    this.#unblock();
    done();
  }

  #unblock(): void {
    if (!this.#blocking) return;
    this.#blocking = false;
    this.#socket.unblock();
  }
}
