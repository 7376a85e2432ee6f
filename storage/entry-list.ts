import { closeSync, openSync, writeSync } from 'node:fs';
import { crc32 } from 'node:zlib';

/**
 * What a layer's directory holds, written while it is unpacked, so that it can be checked later: one JSON array a line, the
 * kind first. A later line of the same path replaces the earlier one.
 *
 * Files have a CRC-32: it tells damage for next to no time, and nobody can forge what only root can write, this list
 * included. Times are left out: file systems round and clip them.
 */
export type EntryLine =
  | readonly [kind: 'file', path: string, mode: number, uid: number, gid: number, size: number, crc: number]
  | readonly [kind: 'directory', path: string, mode: number, uid: number, gid: number]
  /** Made for what is in it; its attributes are those of the layers below. */
  | readonly [kind: 'implied', path: string]
  | readonly [kind: 'symlink', path: string, target: string, uid: number, gid: number]
  /** A device or fifo; `mode` has the type. */
  | readonly [kind: 'node', path: string, mode: number, device: number, uid: number, gid: number]
  | readonly [kind: 'whiteout', path: string]
  /** The same inode as another path. */
  | readonly [kind: 'link', path: string, target: string]
  /** A directory that hides what the layers below have in it. */
  | readonly [kind: 'opaque', path: string]
  /** Extended attributes by name, with the CRC-32 of the value. */
  | readonly [kind: 'xattrs', path: string, values: Readonly<Record<string, number>>]
  /** It was taken away again, with all in it. */
  | readonly [kind: 'removed', path: string]
  /** The last line of a whole list. */
  | readonly [kind: 'end'];

/** What the layer's record says of its list. */
export interface ListSeal {
  readonly bytes: number;
  readonly crc: number;
}

const BUFFER_BYTES = 64 * 1024;

/** Writes a list to a new file, in pieces: it may be long. */
export class EntryListWriter {
  readonly #fd: number;
  #text = '';
  #bytes = 0;
  #crc = 0;

  constructor(path: string) {
    this.#fd = openSync(path, 'wx', 0o600);
  }

  add(line: EntryLine): void {
    this.#text += `${JSON.stringify(line)}\n`;
    if (this.#text.length >= BUFFER_BYTES) this.#flush();
  }

  /** Ends the list. */
  finish(): ListSeal {
    this.add(['end']);
    this.#flush();
    return { bytes: this.#bytes, crc: this.#crc };
  }

  close(): void {
    closeSync(this.#fd);
  }

  #flush(): void {
    const data = Buffer.from(this.#text);
    this.#text = '';
    for (let done = 0; done < data.length; ) done += writeSync(this.#fd, data, done);
    this.#crc = crc32(data, this.#crc);
    this.#bytes += data.length;
  }
}
