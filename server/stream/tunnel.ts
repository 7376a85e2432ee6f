import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { Gate } from './gate.ts';
import { MessageBuffers } from './message-buffers.ts';

/** The bytes of a WebSocket's messages as one stream: what SPDY runs over where it is tunnelled. Never emits `error`. */
export class Tunnel extends Duplex {
  readonly #ws: WebSocket;
  readonly #gate: Gate;
  readonly #buffers = new MessageBuffers();

  /** `transport` is what the WebSocket writes to. */
  constructor(ws: WebSocket, transport: Duplex) {
    super({ allowHalfOpen: true, readableHighWaterMark: 256 * 1024, writableHighWaterMark: 64 * 1024 });
    this.#ws = ws;
    this.#gate = new Gate(transport);
    ws.on('message', (message: Buffer) => {
      if (!this.destroyed && !this.push(message)) ws.pause();
    });
    ws.on('error', () => {}); // `close` follows
    ws.on('close', () => this.destroy());
  }

  override _read(): void {
    if (this.#ws.isPaused) this.#ws.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#send([chunk], done);
  }

  /** A frame comes as its head and its data: one message for both. */
  override _writev(chunks: readonly { readonly chunk: Buffer }[], done: () => void): void {
    this.#send(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }

  override _final(done: () => void): void {
    this.#gate.pass(() => {
      this.#ws.close(1000);
      done();
    });
  }

  override _destroy(_err: Error | null, done: (err?: Error | null) => void): void {
    this.#ws.terminate();
    done();
  }

  #send(parts: readonly Buffer[], done: () => void): void {
    this.#gate.pass(() => {
      if (this.#ws.readyState !== this.#ws.OPEN) return done();
      const { message, release } = this.#buffers.make(totalLength(parts), (buffer) => {
        let offset = 0;
        for (const part of parts) offset += part.copy(buffer, offset);
      });
      this.#ws.send(message, { binary: true }, () => {
        release();
        done();
      });
    });
  }
}

const totalLength = (parts: readonly Buffer[]): number => parts.reduce((sum, { length }) => sum + length, 0);
