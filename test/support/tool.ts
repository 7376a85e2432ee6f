import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

/** Where test/run puts what it builds. */
export const CACHE = join(import.meta.dirname, '../.cache');

/**
 * Path of a program, from PATH or from test/.cache/bin; `undefined` when it is in neither, for a test to skip itself.
 * @throws {Error} instead, where REQUIRE_ROOT=1 forbids to skip.
 */
export function findTool(name: string): string | undefined {
  const directories = [join(CACHE, 'bin'), ...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
  const found = directories.map((directory) => join(directory, name)).find(isExecutable);
  if (found === undefined && process.env.REQUIRE_ROOT === '1') throw new Error(`${name} is not installed, and REQUIRE_ROOT=1 forbids to skip a test`);
  return found;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
