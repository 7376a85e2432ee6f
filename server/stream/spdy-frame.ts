/** Frames of SPDY/3.1 (draft 3.1, section 2.2): eight bytes, then the payload. */

/** The peer broke the protocol; the message says how. */
export class SpdyError extends Error {
  override readonly name = 'SpdyError';
}

export const FRAME = { SYN_STREAM: 1, SYN_REPLY: 2, RST_STREAM: 3, SETTINGS: 4, PING: 6, GOAWAY: 7, HEADERS: 8, WINDOW_UPDATE: 9 } as const;
export const FLAG_FIN = 1;
/** Status codes of RST_STREAM; 2.6.3. */
export const RESET = { PROTOCOL_ERROR: 1, INVALID_STREAM: 2, REFUSED_STREAM: 3, CANCEL: 5, INTERNAL_ERROR: 6 } as const;

const VERSION = 3;
const HEADER_BYTES = 8;
/** Clients send at most some 200 bytes. */
const MAX_CONTROL_BYTES = 16 * 1024;
export const MAX_STREAM_ID = 0x7fff_ffff;

/** Where the frames that have been read go. */
export interface FrameSink {
  /** A piece of a data frame, as it arrives. `fin` comes with the last piece, which may be empty. */
  data(streamId: number, piece: Buffer, fin: boolean): void;
  /** A whole control frame; the payload is only good until the function returns. */
  control(type: number, flags: number, payload: Buffer): void;
}

const NOTHING = Buffer.alloc(0);

/** Reads frames out of bytes that arrive in pieces of any size. Keeps one control frame at most. */
export class FrameReader {
  readonly #sink: FrameSink;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerBytes = 0;
  /** Of the control frame under way, unless it arrived in one piece. */
  #payload: Buffer | undefined;
  #payloadBytes = 0;
  /** Of the data frame under way. */
  #left = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  /** @throws {SpdyError} after which nothing more may be pushed. */
  push(bytes: Buffer): void {
    let rest = bytes;
    while (rest.length > 0) {
      if (this.#left > 0) rest = this.#readData(rest);
      else if (this.#payload !== undefined) rest = this.#readPayload(rest, this.#payload);
      else rest = this.#readHeader(rest);
    }
  }

  #readHeader(bytes: Buffer): Buffer {
    const taken = bytes.copy(this.#header, this.#headerBytes, 0, HEADER_BYTES - this.#headerBytes);
    this.#headerBytes += taken;
    const rest = bytes.subarray(taken);
    if (this.#headerBytes < HEADER_BYTES) return rest;
    this.#headerBytes = 0;
    const length = this.#header.readUIntBE(5, 3);
    if (!this.#isControl()) {
      this.#left = length;
      if (length === 0) this.#sink.data(this.#streamId(), NOTHING, this.#isFin());
      return rest;
    }
    const version = this.#header.readUInt16BE(0) & 0x7fff;
    if (version !== VERSION) throw new SpdyError(`control frame of version ${version}`);
    if (length > MAX_CONTROL_BYTES) throw new SpdyError(`control frame of ${length} bytes; at most ${MAX_CONTROL_BYTES} are taken`);
    if (rest.length >= length) {
      this.#control(rest.subarray(0, length));
      return rest.subarray(length);
    }
    this.#payload = Buffer.allocUnsafe(length);
    this.#payloadBytes = 0;
    return rest;
  }

  #readPayload(bytes: Buffer, payload: Buffer): Buffer {
    const taken = bytes.copy(payload, this.#payloadBytes);
    this.#payloadBytes += taken;
    if (this.#payloadBytes === payload.length) {
      this.#payload = undefined;
      this.#control(payload);
    }
    return bytes.subarray(taken);
  }

  #readData(bytes: Buffer): Buffer {
    const piece = bytes.subarray(0, this.#left);
    this.#left -= piece.length;
    this.#sink.data(this.#streamId(), piece, this.#left === 0 && this.#isFin());
    return bytes.subarray(piece.length);
  }

  #control(payload: Buffer): void {
    this.#sink.control(this.#header.readUInt16BE(2), this.#header.readUInt8(4), payload);
  }

  #isControl = (): boolean => (this.#header.readUInt8(0) & 0x80) !== 0;
  #isFin = (): boolean => (this.#header.readUInt8(4) & FLAG_FIN) !== 0;
  #streamId = (): number => this.#header.readUInt32BE(0) & MAX_STREAM_ID;
}

export function controlFrame(type: number, payload: Buffer, flags = 0): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  frame.writeUInt16BE(0x8000 | VERSION, 0);
  frame.writeUInt16BE(type, 2);
  frame.writeUInt32BE(payload.length, 4);
  frame.writeUInt8(flags, 4);
  payload.copy(frame, HEADER_BYTES);
  return frame;
}

/** A control frame that holds nothing but 32-bit numbers. */
export function numbersFrame(type: number, ...numbers: readonly number[]): Buffer {
  const payload = Buffer.allocUnsafe(numbers.length * 4);
  numbers.forEach((number, index) => {
    payload.writeUInt32BE(number, index * 4);
  });
  return controlFrame(type, payload);
}

/** What goes before `length` bytes of data; at most 2^24 − 1. */
export function dataHeader(streamId: number, length: number, fin: boolean): Buffer {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt32BE(streamId, 0);
  header.writeUInt32BE(length, 4);
  header.writeUInt8(fin ? FLAG_FIN : 0, 4);
  return header;
}
