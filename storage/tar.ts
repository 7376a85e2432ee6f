import { JobError } from './jobs.ts';

/** What an entry is. */
export type TarType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

export interface TarEntry {
  readonly type: TarType;
  /** Bytes of the path, each as one character (latin1): names need not be UTF-8. */
  readonly name: string;
  /** Target of a hard or symbolic link, as latin1. */
  readonly link: string;
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Of the content that follows, in bytes. */
  readonly size: number;
  /** Seconds since 1970; a fraction keeps microseconds. */
  readonly mtime: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: ReadonlyMap<string, Buffer>;
}

/** Is told what a tar holds, in order: each entry, its content in pieces, its end. */
export interface TarSink {
  entry(entry: TarEntry): void;
  data(chunk: Buffer): void;
  end(): void;
}

const BLOCK = 512;
/** Names and attributes are far smaller; an archive may not make us hold more. */
const MAX_EXTENSION_BYTES = 1024 * 1024;
/** The year 2446, which is as far as ext4 goes. Source: kernel, Documentation/filesystems/ext4, "Inode Timestamps". */
const MAX_TIME = 15_032_385_535;
const DECIMAL = /^-?\d{1,20}(\.\d*)?$/;
const NO_XATTRS: ReadonlyMap<string, Buffer> = new Map();

const types: Readonly<Record<string, TarType>> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
};

/**
 * Parses a tar stream pushed to it in chunks of any size: ustar, pax and GNU long names. Sparse files are refused by name.
 * Source: pax(1) in POSIX.1-2017, "ustar Interchange Format" and "pax Header Block"; tar's manual, "Basic Tar Format".
 */
export class TarParser {
  readonly #sink: TarSink;
  readonly #header = Buffer.alloc(BLOCK);
  #headerFilled = 0;
  /** Content bytes of the current entry still to come, and the padding behind them. */
  #left = 0;
  #padding = 0;
  /** Collects the content of an extension header. */
  #extension: { type: string; chunks: Buffer[] } | undefined;
  #pax = new Map<string, Buffer>();
  #longName: string | undefined;
  #longLink: string | undefined;
  #zeroBlocks = 0;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** What is behind the end mark is ignored. */
  write(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && this.#zeroBlocks < 2) {
      const rest = chunk.length - at;
      if (this.#left > 0) {
        const length = Math.min(this.#left, rest);
        const piece = chunk.subarray(at, at + length);
        at += length;
        this.#left -= length;
        if (this.#extension === undefined) this.#sink.data(piece);
        else this.#extension.chunks.push(Buffer.from(piece));
        if (this.#left === 0) this.#endContent();
      } else if (this.#padding > 0) {
        const length = Math.min(this.#padding, rest);
        at += length;
        this.#padding -= length;
      } else if (this.#headerFilled === 0 && rest >= BLOCK) {
        this.#readHeader(chunk.subarray(at, at + BLOCK));
        at += BLOCK;
      } else {
        const length = Math.min(BLOCK - this.#headerFilled, rest);
        chunk.copy(this.#header, this.#headerFilled, at, at + length);
        at += length;
        this.#headerFilled += length;
        if (this.#headerFilled === BLOCK) {
          this.#headerFilled = 0;
          this.#readHeader(this.#header);
        }
      }
    }
  }

  /** Some tools leave the end mark out; an entry cut short is an error. */
  finish(): void {
    if (this.#left > 0 || this.#headerFilled > 0 || this.#pax.size > 0 || this.#longName !== undefined) throw bad('ends within an entry');
  }

  #endContent(): void {
    if (this.#extension === undefined) {
      this.#sink.end();
      return;
    }
    const { type, chunks } = this.#extension;
    this.#extension = undefined;
    const content = Buffer.concat(chunks);
    if (type === 'L') this.#longName = text(content, 0, content.length);
    else if (type === 'K') this.#longLink = text(content, 0, content.length);
    else if (type === 'x') this.#pax = parsePax(content);
    // `g` is a comment in practice: git archives carry their commit in it
  }

  #readHeader(block: Buffer): void {
    if (isZero(block)) {
      this.#zeroBlocks += 1;
      return;
    }
    this.#zeroBlocks = 0;
    if (number(block, 148, 8) !== checksum(block)) throw bad('has a header with a wrong checksum');
    const flag = String.fromCharCode(block[156] ?? 0);
    const size = number(block, 124, 12);
    if (flag === 'x' || flag === 'g' || flag === 'L' || flag === 'K') {
      if (size > MAX_EXTENSION_BYTES) throw bad(`has an extension header of ${size} bytes`);
      this.#extension = { type: flag, chunks: [] };
      this.#expect(size);
      return;
    }
    const entry = this.#entry(block, flag, size);
    this.#pax = new Map();
    this.#longName = this.#longLink = undefined;
    this.#sink.entry(entry);
    this.#expect(entry.size);
  }

  #expect(size: number): void {
    this.#left = size;
    this.#padding = (BLOCK - (size % BLOCK)) % BLOCK;
    if (size === 0) this.#endContent();
  }

  #entry(block: Buffer, flag: string, headerSize: number): TarEntry {
    const pax = this.#pax;
    const paxText = (key: string): string | undefined => pax.get(key)?.toString('latin1');
    const paxNumber = (key: string): number | undefined => {
      const value = paxText(key);
      if (value === undefined || DECIMAL.test(value)) return value === undefined ? undefined : Number(value);
      throw bad(`has a pax header with the ${key} ${JSON.stringify(value.slice(0, 50))}`);
    };
    const name = paxText('path') ?? this.#longName ?? headerName(block);
    const link = paxText('linkpath') ?? this.#longLink ?? text(block, 157, 100);
    const shown = JSON.stringify(name.slice(0, 200));
    if (flag === 'S' || [...pax.keys()].some((key) => key.startsWith('GNU.sparse.')))
      throw new JobError('refused', `tar entry ${shown} is a sparse file, which is not supported`);
    if (name.includes('\0') || link.includes('\0')) throw bad(`has the entry ${shown} with a NUL in its name`);
    let type = types[flag];
    if (type === undefined) throw new JobError('refused', `tar entry ${shown} has the unknown type ${JSON.stringify(flag)}`);
    if (type === 'file' && name.endsWith('/')) type = 'directory'; // tars older than POSIX have no type for directories
    const size = type === 'file' ? (paxNumber('size') ?? headerSize) : 0;
    if (!Number.isSafeInteger(size) || size < 0) throw bad(`has the entry ${shown} with the size ${size}`);
    const uid = paxNumber('uid') ?? number(block, 108, 8);
    const gid = paxNumber('gid') ?? number(block, 116, 8);
    if (!isOwner(uid) || !isOwner(gid)) throw bad(`has the entry ${shown} owned by ${uid}:${gid}`);
    const mtime = paxNumber('mtime') ?? number(block, 136, 12);
    return {
      type,
      name,
      link,
      mode: number(block, 100, 8) & 0o7777,
      uid,
      gid,
      size,
      mtime: Math.max(-MAX_TIME, Math.min(mtime, MAX_TIME)),
      major: number(block, 329, 8),
      minor: number(block, 337, 8),
      xattrs: xattrsOf(pax),
    };
  }
}

function bad(why: string): JobError {
  return new JobError('corrupt', `tar ${why}`);
}

function isOwner(id: number): boolean {
  return Number.isInteger(id) && id >= 0 && id < 0xffffffff;
}

function xattrsOf(pax: ReadonlyMap<string, Buffer>): ReadonlyMap<string, Buffer> {
  const prefix = 'SCHILY.xattr.';
  let xattrs: Map<string, Buffer> | undefined;
  for (const [key, value] of pax) {
    if (!key.startsWith(prefix)) continue;
    xattrs ??= new Map();
    xattrs.set(key.slice(prefix.length), value);
  }
  return xattrs ?? NO_XATTRS;
}

/** Records `LENGTH KEY=VALUE\n`, where LENGTH counts itself and everything after it. */
function parsePax(content: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  for (let at = 0; at < content.length && content[at] !== 0; ) {
    const space = content.indexOf(0x20, at);
    const length = space < 0 ? Number.NaN : Number(content.toString('latin1', at, space));
    const end = at + length;
    const equals = space < 0 ? -1 : content.indexOf(0x3d, space);
    if (!Number.isInteger(length) || end > content.length || equals < 0 || equals >= end || content[end - 1] !== 0x0a) throw bad('has a broken pax header');
    records.set(content.toString('utf8', space + 1, equals), content.subarray(equals + 1, end - 1));
    at = end;
  }
  return records;
}

/** ustar keeps the front of a long name apart; GNU's own format has other things in that place. */
function headerName(block: Buffer): string {
  const name = text(block, 0, 100);
  const isUstar = block.toString('latin1', 257, 263) === 'ustar\0';
  const prefix = isUstar ? text(block, 345, 155) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

function text(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start);
  return block.toString('latin1', start, end < 0 ? start + length : Math.min(end, start + length));
}

/** Octal digits, or base 256 where the first bit is set (GNU's way for large numbers). */
function number(block: Buffer, start: number, length: number): number {
  const first = block[start] ?? 0;
  if ((first & 0x80) !== 0) {
    let value = (first & 0x40) === 0 ? first & 0x3f : (first & 0x3f) - 0x40;
    for (let at = start + 1; at < start + length; at += 1) value = value * 256 + (block[at] ?? 0);
    return value;
  }
  let value = 0;
  let at = start;
  while (at < start + length && (block[at] === 0x20 || block[at] === 0)) at += 1;
  for (; at < start + length; at += 1) {
    const digit = (block[at] ?? 0) - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  return value;
}

/** The sum of the header's bytes, its own field read as blanks. */
function checksum(block: Buffer): number {
  let sum = 8 * 0x20;
  for (let at = 0; at < 148; at += 1) sum += block[at] ?? 0;
  for (let at = 156; at < BLOCK; at += 1) sum += block[at] ?? 0;
  return sum;
}

function isZero(block: Buffer): boolean {
  return block[0] === 0 && block[148] === 0 && block.every((byte) => byte === 0);
}
