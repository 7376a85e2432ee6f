import { closeSync, openSync } from 'node:fs';
import { AT_FDCWD, callAsync, check, libc } from './libc.ts';

const native = {
  mount: libc.func('int mount(const char*, const char*, const char*, unsigned long, const char*)'),
  umount2: libc.func('int umount2(const char*, int)'),
  fsopen: libc.func('int fsopen(const char*, unsigned int)'),
  fsconfig: libc.func('int fsconfig(int, unsigned int, const char*, const char*, int)'),
  fsmount: libc.func('int fsmount(int, unsigned int, unsigned int)'),
  moveMount: libc.func('int move_mount(int, const char*, int, const char*, unsigned int)'),
  openTree: libc.func('int open_tree(int, const char*, unsigned int)'), // glibc 2.36
  mountSetattr: libc.func('int mount_setattr(int, const char*, unsigned int, const void*, size_t)'),
};

/** Flags of mount(2). Source: linux/mount.h. */
export const MS = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  REMOUNT: 32,
  BIND: 4096,
  MOVE: 8192,
  REC: 16384,
  UNBINDABLE: 1 << 17,
  PRIVATE: 1 << 18,
  SLAVE: 1 << 19,
  SHARED: 1 << 20,
} as const;

/** Flags of umount2(2): force, detach lazily, do not follow a symlink. */
export const MNT = { FORCE: 1, DETACH: 2, NOFOLLOW: 8 } as const;

export function mount(source: string, target: string, type: string, flags = 0, data: string | null = null): void {
  check(native.mount(source, target, type, flags, data), 'mount', target);
}

export async function mountAsync(source: string, target: string, type: string, flags = 0, data: string | null = null): Promise<void> {
  await callAsync(native.mount, [source, target, type, flags, data], 'mount', target);
}

/** @throws {SysError} `EINVAL` where nothing is mounted, `ENOENT`, `EBUSY`. */
export function umount(target: string, flags = 0): void {
  check(native.umount2(target, flags), 'umount', target);
}

export async function umountAsync(target: string, flags = 0): Promise<void> {
  await callAsync(native.umount2, [target, flags], 'umount', target);
}

/**
 * Mounts an overlay by the fsopen API, with one `lowerdir+` for each layer: needed past about 4,000 bytes of options.
 * `lower` is uppermost first. Source: kernel 6.5+ Documentation/filesystems/overlayfs.rst.
 */
export function mountOverlayLong(
  target: string,
  lower: readonly string[],
  options: Readonly<Record<string, string>>,
  flags: readonly string[] = [],
  { readOnly = false } = {},
): void {
  const RDONLY_NOSUID_NODEV = 7; // MOUNT_ATTR_*, linux/mount.h
  const FSCONFIG_SET_FLAG = 0;
  const FSCONFIG_SET_STRING = 1;
  const FSCONFIG_CMD_CREATE = 6;
  const context = check(native.fsopen('overlay', 1), 'fsopen', 'overlay');
  try {
    for (const dir of lower) check(native.fsconfig(context, FSCONFIG_SET_STRING, 'lowerdir+', dir, 0), 'fsconfig', `lowerdir+=${dir}`);
    for (const [key, value] of Object.entries(options)) check(native.fsconfig(context, FSCONFIG_SET_STRING, key, value, 0), 'fsconfig', `${key}=${value}`);
    for (const flag of flags) check(native.fsconfig(context, FSCONFIG_SET_FLAG, flag, null, 0), 'fsconfig', flag);
    if (readOnly) check(native.fsconfig(context, FSCONFIG_SET_FLAG, 'ro', null, 0), 'fsconfig', 'ro');
    check(native.fsconfig(context, FSCONFIG_CMD_CREATE, null, null, 0), 'fsconfig', target);
    const mounted = check(native.fsmount(context, 1, readOnly ? RDONLY_NOSUID_NODEV : 0), 'fsmount', target);
    try {
      attachMount(mounted, target);
    } finally {
      closeSync(mounted);
    }
  } finally {
    closeSync(context);
  }
}

/**
 * A copy of the mount at `source`, attached nowhere, on which every owner is shifted as the user namespace at `userns`
 * maps it: what belongs to id 0 on disk belongs to the namespace's root. The descriptor is the caller's to close, and
 * the copy goes with it unless `attachMount` was called. Source: mount_setattr(2), MOUNT_ATTR_IDMAP.
 * @throws {SysError} `EINVAL` where the file system cannot do it.
 */
export function cloneIdmapped(source: string, userns: string): number {
  const AT_EMPTY_PATH = 0x1000;
  const OPEN_TREE_CLONE = 1;
  const OPEN_TREE_CLOEXEC = 0o2000000;
  const MOUNT_ATTR_IDMAP = 0x0010_0000n;
  const fd = check(native.openTree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), 'open_tree', source);
  try {
    const usernsFd = openSync(userns, 'r');
    try {
      const attributes = new BigUint64Array([MOUNT_ATTR_IDMAP, 0n, 0n, BigInt(usernsFd)]); // struct mount_attr: set, clear, propagation, fd
      check(native.mountSetattr(fd, '', AT_EMPTY_PATH, attributes, attributes.byteLength), 'mount_setattr', source);
    } finally {
      closeSync(usernsFd);
    }
    return fd;
  } catch (err) {
    closeSync(fd);
    throw err;
  }
}

/** Attaches a mount that is attached nowhere yet. */
export function attachMount(fd: number, target: string): void {
  const MOVE_MOUNT_F_EMPTY_PATH = 4;
  check(native.moveMount(fd, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), 'move_mount', target);
}
