import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isErrno } from './errors.ts';

/**
 * Makes a directory with those above it that are missing; one that is there is fine. For paths that callers name: Node's
 * own `mkdir` with `recursive` never ends where the kernel refuses to make something in a directory that is there with
 * ENOENT, as in /proc (tried, Node 26.10).
 * @throws `ENOENT` there, `EEXIST` where something else than a directory is at the path, and whatever mkdir(2) has.
 */
export async function makeDirectory(path: string, mode = 0o755): Promise<void> {
  try {
    await mkdir(path, mode);
  } catch (err) {
    if (isErrno(err, 'EEXIST') && (await isDirectory(path))) return;
    const parent = dirname(path);
    if (!isErrno(err, 'ENOENT') || parent === path || (await isDirectory(parent))) throw err;
    await makeDirectory(parent, mode);
    await makeDirectory(path, mode);
  }
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return false;
    throw err;
  }
}
