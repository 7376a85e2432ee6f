import { isErrno } from './errors.ts';
import { lsetxattr } from './sys.ts';

/** Gives a file or directory an SELinux context. A file system that takes none has one for all, and keeps it. */
export function labelFile(path: string, label: string): void {
  try {
    lsetxattr(path, 'security.selinux', Buffer.from(`${label}\0`));
  } catch (err) {
    if (!isErrno(err, 'ENOTSUP', 'EOPNOTSUPP')) throw err;
  }
}
