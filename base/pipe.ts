import { closeSync, writeSync } from 'node:fs';
import { type OnReadOpts, Socket } from 'node:net';
import { isErrno } from './errors.ts';
import { pipe } from './sys.ts';

/** What fits into a pipe without a reader; more has to be written while it is read. Source: pipe(7). */
const PIPE_BYTES = 65_536;

/** A real pipe of which each end is closed once: by hand, by the stream that took it, or at the end of the scope. */
export class Pipe implements Disposable {
  #read: number | undefined;
  #write: number | undefined;

  constructor() {
    const { read, write } = pipe();
    this.#read = read;
    this.#write = write;
  }

  /** The end to read from; for a child's stdio. */
  get readEnd(): number {
    if (this.#read === undefined) throw new Error('read end of the pipe is closed');
    return this.#read;
  }

  /** The end to write to; for a child's stdio. */
  get writeEnd(): number {
    if (this.#write === undefined) throw new Error('write end of the pipe is closed');
    return this.#write;
  }

  closeRead(): void {
    if (this.#read !== undefined) closeSync(this.#read);
    this.#read = undefined;
  }

  closeWrite(): void {
    if (this.#write !== undefined) closeSync(this.#write);
    this.#write = undefined;
  }

  /** A stream over the read end, which owns it from now on: `destroy()` closes it. Waits in epoll, not on a thread. `onread` as of net.Socket. */
  stream(onread?: OnReadOpts): Socket {
    const stream = new Socket({ fd: this.readEnd, readable: true, writable: false, ...(onread !== undefined && { onread }) });
    this.#read = undefined;
    return stream;
  }

  /** A stream over the write end, which owns it from now on: `end()` closes it. */
  writer(): Socket {
    const stream = new Socket({ fd: this.writeEnd, readable: false, writable: true });
    this.#write = undefined;
    return stream;
  }

  /** Writes all of it and closes: at once what the pipe holds, else as it is read. A reader that has gone is none of our concern. */
  fill(data: string | Buffer): void {
    const bytes = Buffer.from(data);
    if (bytes.length > PIPE_BYTES) {
      this.writer()
        .on('error', () => {})
        .end(bytes);
      return;
    }
    try {
      writeSync(this.writeEnd, bytes);
    } catch (err) {
      if (!isErrno(err, 'EPIPE')) throw err;
    }
    this.closeWrite();
  }

  [Symbol.dispose](): void {
    this.closeRead();
    this.closeWrite();
  }
}
