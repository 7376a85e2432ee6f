import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { cleanAuthority } from './hpack.ts';

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

const frameHead = 9;
const headers = 0x1;
const continuation = 0x9;
const endHeaders = 0x4;
const padded = 0x8;
const priority = 0x20;

/** The frame size that holds until a server announces another; grpc-js announces none (RFC 9113, 6.5.2). */
const maxFrameBytes = 16_384;

/** A header block is held back until it is whole; beyond this it goes through as it is, and the server ends the matter. */
const maxBlockBytes = 65_536;

/**
 * What a client sends over one HTTP/2 connection, with every `:authority` made acceptable. Go clients of Kubernetes
 * before 1.30 give the path of the unix socket there, which nghttp2, and so grpc-js, answers with PROTOCOL_ERROR.
 *
 * Only header blocks with such an authority are changed, and only the first request of a connection has one: later ones
 * refer to it by an index. Whatever is no proper HTTP/2 goes through untouched for the server to refuse.
 */
export class AuthorityFilter {
  /** Bytes that were read and not given on: the start of a frame head, of the preface or of a header frame. */
  #pending: Buffer = Buffer.alloc(0);
  /** How much of the current frame is yet to go through. */
  #through = 0;
  #prefaceSeen = false;
  #transparent = false;
  /** The frames of a header block whose end has not come: with payload, as they were. */
  #block: Buffer[] = [];
  #blockBytes = 0;

  /** What may go to the server now. */
  push(chunk: Buffer): Buffer[] {
    if (this.#transparent) return [chunk];
    const out: Buffer[] = [];
    let rest = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    this.#pending = Buffer.alloc(0);
    while (rest.length > 0 && !this.#transparent) {
      const taken = this.#step(rest, out);
      if (taken === 0) break;
      rest = rest.subarray(taken);
    }
    if (this.#transparent) out.push(rest);
    else this.#pending = rest;
    return out;
  }

  /** What was held back when the client ended in the middle of something. */
  end(): Buffer[] {
    const out = [...this.#block, this.#pending].filter((part) => part.length > 0);
    this.#block = [];
    this.#pending = Buffer.alloc(0);
    this.#transparent = true;
    return out;
  }

  /** Takes what it can from the front; returns how much, 0 when more has to come first or nothing is to be taken any more. */
  #step(bytes: Buffer, out: Buffer[]): number {
    if (this.#through > 0) {
      const taken = Math.min(this.#through, bytes.length);
      this.#through -= taken;
      out.push(bytes.subarray(0, taken));
      return taken;
    }
    if (!this.#prefaceSeen) return this.#takePreface(bytes, out);
    if (bytes.length < frameHead) return 0;
    const length = bytes.readUIntBE(0, 3);
    const type = bytes.readUInt8(3);
    const [first] = this.#block;
    if (first === undefined && type !== headers) {
      this.#through = frameHead + length;
      return this.#step(bytes, out);
    }
    const isNext = first === undefined || (type === continuation && bytes.readUInt32BE(5) === first.readUInt32BE(5));
    if (!isNext) return this.#giveUp(out); // nothing may come between HEADERS and its CONTINUATION
    if (length > maxFrameBytes || this.#blockBytes + length > maxBlockBytes) return this.#giveUp(out);
    if (bytes.length < frameHead + length) return 0;
    this.#block.push(bytes.subarray(0, frameHead + length));
    this.#blockBytes += frameHead + length;
    if ((bytes.readUInt8(4) & endHeaders) !== 0) {
      out.push(...cleanFrames(this.#block));
      this.#block = [];
      this.#blockBytes = 0;
    }
    return frameHead + length;
  }

  #takePreface(bytes: Buffer, out: Buffer[]): number {
    const length = Math.min(preface.length, bytes.length);
    if (!bytes.subarray(0, length).equals(preface.subarray(0, length))) return this.#giveUp(out);
    if (length < preface.length) return 0;
    this.#prefaceSeen = true;
    out.push(preface);
    return length;
  }

  /** Lets everything through from here on: `push` sees to the rest. */
  #giveUp(out: Buffer[]): number {
    out.push(...this.end());
    return 0;
  }
}

/** The frames of one header block: the same when nothing had to change, else new ones without padding. */
function cleanFrames(frames: readonly Buffer[]): readonly Buffer[] {
  const [first, ...more] = frames;
  if (first === undefined) return frames;
  const flags = first.readUInt8(4);
  const priorityBytes = (flags & priority) === 0 ? 0 : 5;
  const start = frameHead + ((flags & padded) === 0 ? 0 : 1);
  const end = first.length - ((flags & padded) === 0 ? 0 : (first[frameHead] ?? 0));
  if (start + priorityBytes > end) return frames; // a padding longer than its frame
  const block = Buffer.concat([first.subarray(start + priorityBytes, end), ...more.map((frame) => frame.subarray(frameHead))]);
  const clean = cleanAuthority(block);
  if (clean === block) return frames;
  const payload = Buffer.concat([first.subarray(start, start + priorityBytes), clean]);
  return split(payload, first.readUInt32BE(5), flags & ~(padded | endHeaders));
}

/** A payload as HEADERS and as many CONTINUATION as it takes. */
function split(payload: Buffer, stream: number, flags: number): Buffer[] {
  const out: Buffer[] = [];
  for (let at = 0; at < payload.length; at += maxFrameBytes) {
    const part = payload.subarray(at, at + maxFrameBytes);
    const head = Buffer.alloc(frameHead);
    head.writeUIntBE(part.length, 0, 3);
    head.writeUInt8(at === 0 ? headers : continuation, 3);
    head.writeUInt8((at === 0 ? flags : 0) | (at + part.length === payload.length ? endHeaders : 0), 4);
    head.writeUInt32BE(stream, 5);
    out.push(head, part);
  }
  return out;
}

/** The socket with an `AuthorityFilter` on what is read from it. It owns the socket: they end together. */
export class FilteredSocket extends Duplex {
  readonly #socket: Socket;
  readonly #filter = new AuthorityFilter();

  constructor(socket: Socket) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#give(this.#filter.push(chunk)));
    socket.on('end', () => {
      this.#give(this.#filter.end());
      this.push(null);
    });
    socket.on('error', (err) => this.destroy(err));
    socket.on('close', () => this.destroy());
  }

  #give(parts: readonly Buffer[]): void {
    const [first] = parts;
    if (first === undefined) return;
    // Joined: each piece would cost http2 a call of its own.
    if (!this.push(parts.length === 1 ? first : Buffer.concat(parts))) this.#socket.pause();
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (err?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _writev(chunks: readonly { readonly chunk: Buffer }[], done: (err?: Error | null) => void): void {
    this.#socket.cork();
    for (const [index, { chunk }] of chunks.entries()) this.#socket.write(chunk, index === chunks.length - 1 ? done : undefined);
    this.#socket.uncork();
  }

  override _final(done: (err?: Error | null) => void): void {
    this.#socket.end(done);
  }

  override _destroy(err: Error | null, done: (err: Error | null) => void): void {
    this.#socket.destroy();
    done(err);
  }
}
