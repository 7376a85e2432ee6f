import { statfsSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { lsetxattr, SysError } from '#base/sys.ts';
import { at, show } from './jail-path.ts';
import { JobError } from './jobs.ts';
import type { TarEntry } from './tar.ts';

/**
 * Sets the extended attributes of an entry that a layer may bring: `user.*`, and `security.capability`. The others are the
 * kernel's own business: with `trusted.overlay.*` a layer could point overlayfs anywhere.
 * @returns what was set, by name, with the CRC-32 of the value; `undefined` for nothing.
 */
export function setXattrs(path: string, { type, xattrs }: TarEntry): Record<string, number> | undefined {
  let set: Record<string, number> | undefined;
  for (const [name, value] of xattrs) {
    const isUser = name.startsWith('user.') && (type === 'file' || type === 'directory');
    if (!isUser && name !== 'security.capability') continue;
    try {
      lsetxattr(at(path), name, value);
    } catch (err) {
      if (!(err instanceof SysError)) throw err;
      if (isUser && ['ENOTSUP', 'EOPNOTSUPP'].includes(err.code)) continue;
      if (isTooLarge(err.code)) {
        throw new JobError(
          'refused',
          `tar entry ${show(path)} has the attribute ${show(name)} of ${value.length} bytes, which this file system has no room for`,
        );
      }
      throw err;
    }
    set ??= {};
    set[name] = crc32(value);
  }
  return set;
}

/** ext4 has one block for a file's attributes, and calls it ENOSPC when that is full. */
function isTooLarge(code: string): boolean {
  return code === 'E2BIG' || code === 'ERANGE' || (code === 'ENOSPC' && statfsSync('/').bavail > 0);
}
