import { createHash, type Hash } from 'node:crypto';
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Digest } from './digest.ts';

const SLICE_BYTES = 1024 * 1024;

/**
 * A blob's file while it grows, with the digest of what it has. It goes on where an earlier try left it, be that one of
 * this daemon or of one that was killed; whether those bytes were right is told by the digest at the end.
 *
 * Nothing is ever cut off, only written over: should the child of a killed daemon live a moment longer, both write the
 * same bytes to the same places.
 */
export class PartialFile implements Disposable {
  readonly #fd: number;
  #hash: Hash = createHash('sha256');
  #bytes = 0;
  #written = 0;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Opens or makes the file and reads what is there, which takes a second for each gigabyte or so. One that is longer than `sizeBytes` begins anew. */
  static async open(path: string, sizeBytes: number, signal: AbortSignal): Promise<PartialFile> {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    const file = new PartialFile(fd);
    try {
      const { size } = fstatSync(fd);
      if (size > sizeBytes) ftruncateSync(fd, 0);
      else await file.#readBack(size, signal);
      return file;
    } catch (err) {
      closeSync(fd);
      throw err;
    }
  }

  /** How many bytes it has, from the first on. */
  get bytes(): number {
    return this.#bytes;
  }

  /** How many were written since it was opened. */
  get written(): number {
    return this.#written;
  }

  write(chunk: Buffer): void {
    for (let done = 0; done < chunk.length; ) done += writeSync(this.#fd, chunk, done, chunk.length - done, this.#bytes + done);
    this.#hash.update(chunk);
    this.#bytes += chunk.length;
    this.#written += chunk.length;
  }

  /** What follows are the bytes from the first on. */
  restart(): void {
    this.#hash = createHash('sha256');
    this.#bytes = 0;
  }

  digest(): Digest {
    return `sha256:${this.#hash.copy().digest('hex')}` as Digest;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  /** In slices, between which the other downloads of this process get their turn. */
  async #readBack(size: number, signal: AbortSignal): Promise<void> {
    const slice = Buffer.allocUnsafe(Math.min(SLICE_BYTES, size));
    while (this.#bytes < size) {
      signal.throwIfAborted();
      const count = readSync(this.#fd, slice, 0, Math.min(slice.length, size - this.#bytes), this.#bytes);
      if (count === 0) break;
      this.#hash.update(slice.subarray(0, count));
      this.#bytes += count;
      await nextTurn();
    }
  }
}
