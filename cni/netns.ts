import { statfs } from 'node:fs/promises';
import { isErrno } from '#base/errors.ts';

/**
 * True where a namespace is mounted, or a process has one. After a lazy unmount an empty file may remain, which plugins
 * refuse. Source: linux/magic.h.
 */
export async function isNamespace(path: string): Promise<boolean> {
  const NSFS_MAGIC = 0x6e736673;
  const PROC_SUPER_MAGIC = 0x9fa0;
  if (path === '') return false;
  try {
    const { type } = await statfs(path);
    return type === NSFS_MAGIC || type === PROC_SUPER_MAGIC;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return false;
    throw err;
  }
}
