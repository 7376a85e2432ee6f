import { closeSync } from 'node:fs';
import { mkdir, readdir, rmdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { newId } from '#base/id.ts';
import { attachMount, cloneIdmapped } from '#base/sys.ts';
import { unmount } from './overlay.ts';

/**
 * overlayfs cannot be idmapped itself, but its layers can: they are taken from a copy of the store's mount on which every
 * owner is shifted. The copy is needed only until the overlay is there, which keeps private copies of its own.
 * Source: kernel Documentation/filesystems/overlayfs.rst, Documentation/filesystems/idmappings.rst.
 */

/** Below the store's root; short, since the names of layers have one page together. */
const DIRECTORY = 'mapped';
const NAME_LENGTH = 8;

/** Runs `use` with the same directories as a user namespace shall see them. They must lie below the store's `root`. */
export async function withIdmapped<T>(
  root: string,
  directories: readonly string[],
  userns: string,
  use: (mapped: readonly string[]) => Promise<T>,
): Promise<T> {
  const place = join(root, DIRECTORY, newId().slice(0, NAME_LENGTH));
  await mkdir(place, { recursive: true, mode: 0o700 });
  try {
    const fd = cloneIdmapped(root, userns);
    try {
      attachMount(fd, place);
    } finally {
      closeSync(fd);
    }
    return await use(directories.map((directory) => join(place, relative(root, directory))));
  } finally {
    await unmount(place);
    await rmdir(place);
  }
}

/** Takes away what a daemon left that died in the middle. */
export async function removeIdmapped(root: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(join(root, DIRECTORY));
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return;
    throw err;
  }
  for (const name of names) {
    await unmount(join(root, DIRECTORY, name));
    await rmdir(join(root, DIRECTORY, name));
  }
}
