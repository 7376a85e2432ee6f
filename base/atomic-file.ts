import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

let serial = 0;

/**
 * Replaces a file so that a reader, or the death of this process, sees the old bytes or the new ones and nothing between:
 * a temporary file in the same directory, then a rename. `lasting` makes it proof against a power cut too before this
 * returns: fsync before the rename, fsync of the directory after it. Otherwise the fsync follows the rename, unawaited.
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array, { mode = 0o600, lasting = true } = {}): Promise<void> {
  serial += 1;
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.${serial}.tmp`);
  const file = await open(temporary, 'wx', mode);
  try {
    await file.writeFile(data);
    if (lasting) await file.sync();
    await rename(temporary, path);
  } catch (err) {
    await file.close();
    await rm(temporary, { force: true });
    throw err;
  }
  if (lasting) {
    await file.close();
    await syncDirectory(dirname(path));
  } else {
    // What fails here the next lasting write of the file reports.
    file
      .sync()
      .catch(() => {})
      .finally(() => file.close())
      .catch(() => {});
  }
}

/** Makes renames and removals in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  await directory.sync();
}
