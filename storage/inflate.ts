import { createHash } from 'node:crypto';
import { fstatSync, readSync } from 'node:fs';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { Digest } from './digest.ts';
import { JobError } from './jobs.ts';

const READ_BYTES = 256 * 1024;
const INFLATED_BYTES = 128 * 1024;

export type Compression = 'none' | 'gzip' | 'zstd';

/** Told by the first bytes, not by a media type: those are wrong at times. */
export function compressionOf(start: Buffer): Compression {
  if (start[0] === 0x1f && start[1] === 0x8b) return 'gzip';
  const magic = start.length < 4 ? 0 : start.readUInt32LE(0);
  const isSkippableFrame = (magic & 0xfffffff0) >>> 0 === 0x184d2a50;
  return magic === 0xfd2fb528 || isSkippableFrame ? 'zstd' : 'none';
}

/** The digest of an open file's bytes. */
export function digestFile(fd: number): Digest {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  for (let position = 0; ; ) {
    const length = readSync(fd, buffer, 0, buffer.length, position);
    if (length === 0) return `sha256:${hash.digest('hex')}` as Digest;
    hash.update(buffer.subarray(0, length));
    position += length;
  }
}

/**
 * Inflates an open file and pushes its bytes to `sink`, which must be done with a chunk when it returns. zlib works on
 * its own thread while the sink writes what came before.
 * @returns the digest of the inflated bytes.
 */
export async function inflate(fd: number, sink: (chunk: Buffer) => void): Promise<Digest> {
  const hash = createHash('sha256');
  const take = (chunk: Buffer): void => {
    hash.update(chunk);
    sink(chunk);
  };
  const start = Buffer.alloc(4);
  const compression = compressionOf(start.subarray(0, readSync(fd, start, 0, 4, 0)));
  if (compression === 'none') for (const chunk of chunksOf(fd)) take(chunk);
  else await inflateWith(compression === 'gzip' ? createGunzip({ chunkSize: INFLATED_BYTES }) : createZstdDecompress({ chunkSize: INFLATED_BYTES }), fd, take);
  return `sha256:${hash.digest('hex')}` as Digest;
}

type Inflater = ReturnType<typeof createGunzip> | ReturnType<typeof createZstdDecompress>;

async function inflateWith(inflater: Inflater, fd: number, take: (chunk: Buffer) => void): Promise<void> {
  const ended = Promise.withResolvers<void>();
  let failure: unknown;
  inflater.on('data', (chunk: Buffer) => {
    if (failure !== undefined) return;
    try {
      take(chunk);
    } catch (err) {
      failure = err;
      inflater.destroy();
      ended.reject(err);
    }
  });
  inflater.on('end', () => ended.resolve());
  inflater.on('error', (err) => ended.reject(new JobError('corrupt', `compressed layer is damaged: ${err.message}`)));
  const feed = async (): Promise<void> => {
    for (const chunk of chunksOf(fd)) {
      if (failure !== undefined) return;
      // The write is awaited, so the buffer is free again: zlib holds on to what it is given until then.
      await new Promise<void>((resolve) => inflater.write(chunk, () => resolve()));
    }
    inflater.end();
  };
  await Promise.all([feed(), ended.promise]);
}

/** The file in pieces that are valid until the next is asked for. */
function* chunksOf(fd: number): Generator<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(Math.max(1, Math.min(READ_BYTES, fstatSync(fd).size)));
  for (let position = 0; ; ) {
    const length = readSync(fd, buffer, 0, buffer.length, position);
    if (length === 0) return;
    yield buffer.subarray(0, length);
    position += length;
  }
}
