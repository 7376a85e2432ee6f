import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

let serial = 0;

/**
 * Replaces a file so that a reader, or a crash, sees the old bytes or the new ones and nothing between: temporary file
 * in the same directory, fsync, rename, and unless `lasting` is false fsync of the directory. Without that a power cut
 * may bring the old bytes back.
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array, { mode = 0o600, lasting = true } = {}): Promise<void> {
  serial += 1;
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.${serial}.tmp`);
  try {
    await using file = await open(temporary, 'wx', mode);
    await file.writeFile(data);
    await file.sync();
  } catch (err) {
    await rm(temporary, { force: true });
    throw err;
  }
  try {
    await rename(temporary, path);
  } catch (err) {
    await rm(temporary, { force: true });
    throw err;
  }
  if (lasting) await syncDirectory(dirname(path));
}

/** Makes renames and removals in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  await directory.sync();
}
