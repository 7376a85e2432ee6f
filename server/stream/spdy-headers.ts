import { constants, deflateRawSync, deflateSync, inflateRawSync } from 'node:zlib';
import { SPDY_DICTIONARY } from './spdy-dictionary.ts';
import { SpdyError } from './spdy-frame.ts';

export type Headers = ReadonlyMap<string, string>;

/** Of one block, inflated. Clients send some 150 bytes. */
const MAX_BLOCK_BYTES = 16 * 1024;
const MAX_HEADERS = 64;
/** How far back deflate can refer; RFC 1951. */
const WINDOW_BYTES = 32 * 1024;
/** RFC 1950: two bytes, and four more that name the dictionary. */
const ZLIB_HEADER_BYTES = 6;

/**
 * Reads a connection's header blocks. They are one zlib stream, cut where it was flushed to a whole byte: so each can be
 * inflated by itself, at once, when what came before is given to it as the dictionary.
 */
export class HeaderReader {
  #window = SPDY_DICTIONARY;
  #begun = false;

  /** @throws {SpdyError} */
  read(block: Buffer): Headers {
    return parseHeaders(this.#inflate(this.#begun ? block : this.#withoutZlibHeader(block)));
  }

  #withoutZlibHeader(block: Buffer): Buffer {
    const [method = 0, flags = 0] = block;
    const isZlib = (method & 0x0f) === 8 && (method * 256 + flags) % 31 === 0;
    const hasDictionary = (flags & 0x20) !== 0 && block.subarray(2, ZLIB_HEADER_BYTES).equals(EMPTY_BLOCK.first.subarray(2, ZLIB_HEADER_BYTES));
    if (!isZlib || !hasDictionary) throw new SpdyError('headers are not a zlib stream with the dictionary of SPDY');
    this.#begun = true;
    return block.subarray(ZLIB_HEADER_BYTES);
  }

  #inflate(block: Buffer): Buffer {
    try {
      const plain = inflateRawSync(block, { dictionary: this.#window, finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: MAX_BLOCK_BYTES });
      const all = Buffer.concat([this.#window, plain]);
      this.#window = all.subarray(Math.max(0, all.length - WINDOW_BYTES));
      return plain;
    } catch (cause) {
      throw new SpdyError(`headers cannot be inflated to at most ${MAX_BLOCK_BYTES} bytes`, { cause });
    }
  }
}

/** SPDY 3.1, 2.6.10: a count, then each name and value behind its length, all of 32 bits. Names come out in lower case. */
function parseHeaders(block: Buffer): Headers {
  let offset = 0;
  const readUint32 = (): number => {
    if (offset + 4 > block.length) throw new SpdyError('header block is too short');
    offset += 4;
    return block.readUInt32BE(offset - 4);
  };
  const readText = (): string => {
    const length = readUint32();
    if (offset + length > block.length) throw new SpdyError('header block is too short');
    offset += length;
    return block.toString('utf8', offset - length, offset);
  };
  const count = readUint32();
  if (count > MAX_HEADERS) throw new SpdyError(`${count} headers are more than ${MAX_HEADERS}`);
  const headers = new Map<string, string>();
  for (let i = 0; i < count; i += 1) {
    const name = readText().toLowerCase();
    headers.set(name, readText());
  }
  return headers;
}

const NO_HEADERS = Buffer.alloc(4);

/** A block without headers, the only one a server has to write: first of its zlib stream, or a later one, which refers to nothing. */
export const EMPTY_BLOCK: { readonly first: Buffer; readonly later: Buffer } = {
  first: deflateSync(NO_HEADERS, { dictionary: SPDY_DICTIONARY, finishFlush: constants.Z_SYNC_FLUSH }),
  later: deflateRawSync(NO_HEADERS, { finishFlush: constants.Z_SYNC_FLUSH }),
};
