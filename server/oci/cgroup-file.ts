import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';

/** The text of one of a cgroup's files; `undefined` when the cgroup, its controller or the file is not there. */
export async function readCgroupFile(dir: string, file: string): Promise<string | undefined> {
  try {
    return await readFile(join(dir, file), 'latin1');
  } catch (err) {
    // ENODEV: the cgroup was removed between open and read. EOPNOTSUPP: pressure accounting is switched off.
    if (isErrno(err, 'ENOENT', 'ENODEV', 'EOPNOTSUPP', 'ENOTSUP')) return undefined;
    throw err;
  }
}

/** A limit's file; `undefined` for none: version 2 writes `max`, version 1 the largest count of pages it knows, just below 2^63. */
export function limitOf(text: string | undefined): number | undefined {
  const value = text === undefined || text.trim() === 'max' ? Number.NaN : Number(text);
  return value < 2 ** 62 ? value : undefined;
}
