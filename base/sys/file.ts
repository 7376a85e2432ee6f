import { closeSync, openSync } from 'node:fs';
import { AT_FDCWD, callAsync, check, ERRNO, errno, libc, O_CLOEXEC, SysError } from './libc.ts';

const native = {
  mknod: libc.func('int mknod(const char*, unsigned int, unsigned long)'),
  lsetxattr: libc.func('int lsetxattr(const char*, const char*, const uint8_t*, size_t, int)'),
  syncfs: libc.func('int syncfs(int)'),
  chroot: libc.func('int chroot(const char*)'),
  fchdir: libc.func('int fchdir(int)'),
  renameat2: libc.func('int renameat2(int, const char*, int, const char*, unsigned int)'),
  lgetxattr: libc.func('int64_t lgetxattr(const char*, const char*, _Out_ uint8_t*, size_t)'),
  openat2: libc.func('long syscall(long, int, const char*, const uint64_t*, size_t)'),
};

/** File type bits for `mknod`. */
export const S_IF = { CHR: 0o020000, BLK: 0o060000, FIFO: 0o010000 } as const;

/** The kernel's dev_t of a device number pair, as glibc's makedev has it. */
export function makedev(major: number, minor: number): bigint {
  const ma = BigInt(major);
  const mi = BigInt(minor);
  return ((ma & 0xfffff000n) << 32n) | ((ma & 0xfffn) << 8n) | ((mi & 0xffffff00n) << 12n) | (mi & 0xffn);
}

/** `mode` holds the type (`S_IF`) and the permission bits; the umask applies. Paths may be bytes that are not UTF-8. */
export function mknod(path: string | Buffer, mode: number, device = 0n): void {
  check(native.mknod(cPath(path), mode, device), 'mknod', String(path));
}

/** Sets an extended attribute without following a symlink. */
export function lsetxattr(path: string | Buffer, name: string, value: Buffer): void {
  check(native.lsetxattr(cPath(path), name, value, value.length, 0), `lsetxattr ${name}`, String(path));
}

/** The value of an extended attribute; `undefined` where it is not set. Does not follow a symlink. */
export function readXattr(path: string | Buffer, name: string): Buffer | undefined {
  for (let size = 256; ; size = XATTR_SIZE_MAX) {
    const value = Buffer.alloc(size);
    const length = Number(native.lgetxattr(cPath(path), name, value, value.length));
    if (length >= 0) return value.subarray(0, length);
    if (errno() === ERRNO.ENODATA) return undefined;
    if (errno() !== ERRNO.ERANGE || size === XATTR_SIZE_MAX) throw new SysError(`lgetxattr ${name}`, String(path), errno());
  }
}

/** `lsetxattr` on the thread pool: for file systems that may be slow, and trees of many files. */
export async function lsetxattrAsync(path: string | Buffer, name: string, value: Buffer): Promise<void> {
  await callAsync(native.lsetxattr, [cPath(path), name, value, value.length, 0], `lsetxattr ${name}`, String(path));
}

/** `readXattr` on the thread pool, for values of up to 4 KiB. @throws {SysError} `ERANGE` for longer ones. */
export async function readXattrAsync(path: string | Buffer, name: string): Promise<Buffer | undefined> {
  const value = Buffer.alloc(4096);
  try {
    const length = await callAsync(native.lgetxattr, [cPath(path), name, value, value.length], `lgetxattr ${name}`, String(path));
    return value.subarray(0, Number(length));
  } catch (err) {
    if (err instanceof SysError && err.errno === ERRNO.ENODATA) return undefined;
    throw err;
  }
}

/** Source: linux/limits.h. */
const XATTR_SIZE_MAX = 65_536;

/** NUL-terminated bytes: koffi takes a Buffer where the prototype says `const char*`. */
function cPath(path: string | Buffer): string | Buffer {
  return typeof path === 'string' ? path : Buffer.concat([path, Buffer.from([0])]);
}

/** Writes back the whole file system that `path` lies on. */
export async function syncfsAsync(path: string): Promise<void> {
  const fd = openSync(path, 'r');
  try {
    await callAsync(native.syncfs, [fd], 'syncfs', path);
  } finally {
    closeSync(fd);
  }
}

/** For a jailed child only: a chroot holds for the whole process. */
export function chroot(path: string): void {
  check(native.chroot(path), 'chroot', path);
}

/** Changes the working directory to an open directory; how a jailed child gets out again. */
export function fchdir(fd: number): void {
  check(native.fchdir(fd), 'fchdir', String(fd));
}

/** Renames and fails with `EEXIST` where the target is there. */
export function renameNoReplace(from: string, to: string): void {
  check(native.renameat2(AT_FDCWD, from, AT_FDCWD, to, 1), 'renameat2', `${from} to ${to}`);
}

/** open(2)'s flag for a descriptor that only names a place; Node does not name it. Source: asm-generic/fcntl.h. */
export const O_PATH = 0o10000000;

const OPENAT2_ATTEMPTS = 100;

/** The same on every architecture. */
const SYS_openat2 = 437;

/**
 * Opens `path` with the directory `root` as its root: absolute symlinks and `..` stay below it and magic links are
 * refused, so that a hostile tree cannot lead out of it. The descriptor is the caller's to close. Source: openat2(2).
 * @throws {SysError} `ENOENT`, `ENOTDIR`, `ELOOP`, …
 */
export function openInRoot(root: string, path: string, flags: number): number {
  const RESOLVE_NO_MAGICLINKS = 0x02n;
  const RESOLVE_IN_ROOT = 0x10n;
  const dir = openSync(root, O_PATH);
  try {
    const how = new BigUint64Array([BigInt(flags | O_CLOEXEC), 0n, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS]);
    for (let attempt = 1; ; attempt += 1) {
      const fd = Number(native.openat2(SYS_openat2, dir, path, how, how.byteLength));
      // EAGAIN: a rename or mount anywhere on the machine meanwhile, so that the kernel cannot vouch for a `..`.
      if (fd >= 0 || errno() !== ERRNO.EAGAIN || attempt === OPENAT2_ATTEMPTS) return check(fd, 'openat2', path);
    }
  } finally {
    closeSync(dir);
  }
}

/**
 * Opens `path` below an open directory on the thread pool, following no symlink on the way: what others change meanwhile
 * cannot lead out of it. Paths may be bytes that are not UTF-8. The descriptor is the caller's to close. Source: openat2(2).
 * @throws {SysError} `ELOOP` for a symlink, `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, …
 */
export async function openBelowAsync(directory: number, path: Buffer, flags: number): Promise<number> {
  const RESOLVE_NO_SYMLINKS = 0x04n;
  const RESOLVE_BENEATH = 0x08n;
  const how = new BigUint64Array([BigInt(flags | O_CLOEXEC), 0n, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS]);
  for (let attempt = 1; ; attempt += 1) {
    try {
      return Number(await callAsync(native.openat2, [SYS_openat2, directory, cPath(path), how, how.byteLength], 'openat2', String(path)));
    } catch (err) {
      if (!(err instanceof SysError && err.errno === ERRNO.EAGAIN) || attempt === OPENAT2_ATTEMPTS) throw err;
    }
  }
}
