import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';

/**
 * The one place with foreign calls (libc through koffi). Calls are synchronous and take microseconds unless their name
 * ends in `Async`, which run on libuv's thread pool. Errors are `SysError`s with `code` set as Node's own have it.
 */

const libc = koffi.load('libc.so.6');

const native = {
  mount: libc.func('int mount(const char*, const char*, const char*, unsigned long, const char*)'),
  umount2: libc.func('int umount2(const char*, int)'),
  mknod: libc.func('int mknod(const char*, unsigned int, unsigned long)'),
  lsetxattr: libc.func('int lsetxattr(const char*, const char*, const uint8_t*, size_t, int)'),
  syncfs: libc.func('int syncfs(int)'),
  chroot: libc.func('int chroot(const char*)'),
  fchdir: libc.func('int fchdir(int)'),
  flock: libc.func('int flock(int, int)'),
  renameat2: libc.func('int renameat2(int, const char*, int, const char*, unsigned int)'),
  fcntl: libc.func('int fcntl(int, int, int)'),
  pipe2: libc.func('int pipe2(_Out_ int*, int)'),
  setns: libc.func('int setns(int, int)'),
  sethostname: libc.func('int sethostname(const char*, size_t)'),
  fsopen: libc.func('int fsopen(const char*, unsigned int)'),
  fsconfig: libc.func('int fsconfig(int, unsigned int, const char*, const char*, int)'),
  fsmount: libc.func('int fsmount(int, unsigned int, unsigned int)'),
  moveMount: libc.func('int move_mount(int, const char*, int, const char*, unsigned int)'),
  openTree: libc.func('int open_tree(int, const char*, unsigned int)'), // glibc 2.36
  mountSetattr: libc.func('int mount_setattr(int, const char*, unsigned int, const void*, size_t)'),
  fchown: libc.func('int fchown(int, uint32_t, uint32_t)'),
  socket: libc.func('int socket(int, int, int)'),
  connect: libc.func('int connect(int, const uint8_t*, uint32_t)'),
  ioctl: libc.func('int ioctl(int, unsigned long, const void*)'),
  waitpid: libc.func('int waitpid(int, _Out_ int*, int)'),
  spawn: libc.func('int posix_spawn(_Out_ int*, const char*, const void*, const void*, const char**, const char**)'),
  actionsInit: libc.func('int posix_spawn_file_actions_init(void*)'),
  actionsDup2: libc.func('int posix_spawn_file_actions_adddup2(void*, int, int)'),
  actionsOpen: libc.func('int posix_spawn_file_actions_addopen(void*, int, const char*, int, uint32_t)'),
  actionsChdir: libc.func('int posix_spawn_file_actions_addchdir_np(void*, const char*)'),
  actionsClosefrom: libc.func('int posix_spawn_file_actions_addclosefrom_np(void*, int)'), // glibc 2.34
  actionsDestroy: libc.func('int posix_spawn_file_actions_destroy(void*)'),
  attrInit: libc.func('int posix_spawnattr_init(void*)'),
  attrFlags: libc.func('int posix_spawnattr_setflags(void*, int16_t)'),
  attrSigdefault: libc.func('int posix_spawnattr_setsigdefault(void*, const void*)'),
  attrSigmask: libc.func('int posix_spawnattr_setsigmask(void*, const void*)'),
  attrDestroy: libc.func('int posix_spawnattr_destroy(void*)'),
  send: libc.func('int64_t send(int, const uint8_t*, size_t, int)'),
  dup3: libc.func('int dup3(int, int, int)'),
};

const errnoNames = new Map(Object.entries(koffi.os.errno).map(([name, value]) => [value, name]));

/** A failed system call: `syscall`, `code` (`EBUSY`) and the positive `errno`. */
export class SysError extends Error {
  override readonly name = 'SysError';
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, subject: string, errno: number) {
    const code = errnoNames.get(errno) ?? `errno ${errno}`;
    super(`${syscall} ${subject}: ${code}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

function check(result: number, syscall: string, subject: string): number {
  if (result < 0) throw new SysError(syscall, subject, koffi.errno());
  return result;
}

/** Calls on the thread pool; errno is kept for the callback by koffi. */
function callAsync(fn: { async: (...args: unknown[]) => unknown }, args: unknown[], syscall: string, subject: string): Promise<number> {
  return new Promise((resolve, reject) => {
    fn.async(...args, (err: unknown, result: number) => {
      if (err !== null && err !== undefined) reject(err);
      else if (result < 0) reject(new SysError(syscall, subject, koffi.errno()));
      else resolve(result);
    });
  });
}

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
      const AT_FDCWD = -100;
      const MOVE_MOUNT_F_EMPTY_PATH = 4;
      check(native.moveMount(mounted, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), 'move_mount', target);
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
  const AT_FDCWD = -100;
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

/** Attaches what `cloneIdmapped` made. */
export function attachMount(fd: number, target: string): void {
  const AT_FDCWD = -100;
  const MOVE_MOUNT_F_EMPTY_PATH = 4;
  check(native.moveMount(fd, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), 'move_mount', target);
}

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

/**
 * Locks an open file for its descriptor alone; the kernel frees it with the last copy of that, however the process ends.
 * False when another has it. Source: flock(2).
 */
export function tryLock(fd: number): boolean {
  const LOCK_EX = 2;
  const LOCK_NB = 4;
  if (native.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  if (koffi.errno() === koffi.os.errno.EWOULDBLOCK) return false;
  throw new SysError('flock', String(fd), koffi.errno());
}

/** Renames and fails with `EEXIST` where the target is there. */
export function renameNoReplace(from: string, to: string): void {
  const AT_FDCWD = -100;
  check(native.renameat2(AT_FDCWD, from, AT_FDCWD, to, 1), 'renameat2', `${from} to ${to}`);
}

/** What a pipe holds: its writer may run ahead of a busy reader by a few reads. The kernel's default is 64 KiB. */
const PIPE_BYTES = 256 * 1024;

/** A real pipe (Node's own `'pipe'` is a socket pair, which cannot be opened through /dev/stderr). Both ends close on exec. */
export function pipe(): { readonly read: number; readonly write: number } {
  const fds = [0, 0];
  const O_CLOEXEC = 0o2000000;
  check(native.pipe2(fds, O_CLOEXEC), 'pipe2', '');
  const F_SETPIPE_SZ = 1031;
  native.fcntl(fds[0] as number, F_SETPIPE_SZ, PIPE_BYTES); // refused past the user's share of pipe memory: then it is a small one
  return { read: fds[0] as number, write: fds[1] as number };
}

export function fchown(fd: number, uid: number, gid: number): void {
  check(native.fchown(fd, uid, gid), 'fchown', String(fd));
}

/** Namespace kinds as in /proc/PID/ns. */
export type NamespaceKind = 'net' | 'uts' | 'ipc';

/**
 * Runs `work` with the calling thread inside the namespaces at `paths`, in one synchronous step: nothing else of the
 * process runs meanwhile. `work` must not wait and should take microseconds.
 */
export function inNamespaces<T>(paths: Readonly<Partial<Record<NamespaceKind, string>>>, work: () => T): T {
  const home: { kind: string; fd: number }[] = [];
  try {
    for (const [kind, path] of Object.entries(paths)) {
      const there = openSync(path, 'r');
      try {
        home.push({ kind, fd: openSync(`/proc/thread-self/ns/${kind}`, 'r') });
        check(native.setns(there, 0), 'setns', path);
      } finally {
        closeSync(there);
      }
    }
    return work();
  } finally {
    for (const { fd } of home) {
      // A daemon left in a pod's namespace would do harm everywhere: better none at all.
      if (native.setns(fd, 0) < 0) process.abort();
      closeSync(fd);
    }
  }
}

/**
 * Brings the loopback device of a network namespace up. Only the socket is made in there; the call that takes the
 * kernel's network lock, which others may hold for long, waits on a thread of the pool. Source: netdevice(7).
 */
export async function loopbackUpAsync(netns: string): Promise<void> {
  const AF_INET = 2;
  const SOCK_DGRAM = 2;
  const SOCK_CLOEXEC = 0o2000000;
  const SIOCSIFFLAGS = 0x8914;
  const IFF_UP_RUNNING = 0x41;
  const fd = inNamespaces({ net: netns }, () => check(native.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket', netns));
  try {
    const request = Buffer.alloc(40); // struct ifreq: the name in 16 bytes, then the flags
    request.write('lo');
    request.writeUInt16LE(IFF_UP_RUNNING, 16);
    await callAsync(native.ioctl, [fd, SIOCSIFFLAGS, request], 'ioctl SIOCSIFFLAGS', netns);
  } finally {
    closeSync(fd);
  }
}

/**
 * A TCP socket of a network namespace, not connected and not blocking; the caller's to close. Only its making happens in
 * there: from then on it belongs to that namespace wherever it is used.
 * @throws {SysError} `EAFNOSUPPORT` where the kernel has no such family; Node's `ENOENT` where the namespace is gone.
 */
export function tcpSocketIn(netns: string, family: 4 | 6): number {
  const AF = { 4: 2, 6: 10 };
  const SOCK_STREAM = 1;
  const SOCK_NONBLOCK = 0o4000;
  const SOCK_CLOEXEC = 0o2000000;
  return inNamespaces({ net: netns }, () => check(native.socket(AF[family], SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket', netns));
}

/** The host name of the UTS namespace the thread is in; see `inNamespaces`. */
export function sethostname(name: string): void {
  check(native.sethostname(name, Buffer.byteLength(name)), 'sethostname', name);
}

/**
 * Sends one datagram to a unix socket, as sd_notify(3) wants it. A path that begins with `@` is an abstract one.
 */
export function sendDatagram(path: string, text: string): void {
  const AF_UNIX = 1;
  const SOCK_DGRAM = 2;
  const SOCK_CLOEXEC = 0o2000000;
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path);
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), name]);
  const fd = check(native.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket', path);
  try {
    check(native.connect(fd, address, address.length), 'connect', path);
    const data = Buffer.from(text);
    const MSG_NOSIGNAL = 0x4000;
    check(Number(native.send(fd, data, data.length, MSG_NOSIGNAL)), 'send', path);
  } finally {
    closeSync(fd);
  }
}

const lgetxattr = libc.func('int64_t lgetxattr(const char*, const char*, _Out_ uint8_t*, size_t)');

/** The value of an extended attribute; `undefined` where it is not set. Does not follow a symlink. */
export function readXattr(path: string | Buffer, name: string): Buffer | undefined {
  for (let size = 256; ; size = XATTR_SIZE_MAX) {
    const value = Buffer.alloc(size);
    const length = Number(lgetxattr(cPath(path), name, value, value.length));
    if (length >= 0) return value.subarray(0, length);
    if (koffi.errno() === koffi.os.errno.ENODATA) return undefined;
    if (koffi.errno() !== koffi.os.errno.ERANGE || size === XATTR_SIZE_MAX) throw new SysError(`lgetxattr ${name}`, String(path), koffi.errno());
  }
}

/** Source: linux/limits.h. */
const XATTR_SIZE_MAX = 65_536;

/** open(2)'s flag for a descriptor that only names a place; Node does not name it. Source: asm-generic/fcntl.h. */
export const O_PATH = 0o10000000;

const openat2 = libc.func('long syscall(long, int, const char*, const uint64_t*, size_t)');

const OPENAT2_ATTEMPTS = 100;

/**
 * Opens `path` with the directory `root` as its root: absolute symlinks and `..` stay below it and magic links are
 * refused, so that a hostile tree cannot lead out of it. The descriptor is the caller's to close. Source: openat2(2).
 * @throws {SysError} `ENOENT`, `ENOTDIR`, `ELOOP`, …
 */
export function openInRoot(root: string, path: string, flags: number): number {
  const SYS_openat2 = 437; // the same on every architecture
  const O_CLOEXEC = 0o2000000;
  const RESOLVE_NO_MAGICLINKS = 0x02n;
  const RESOLVE_IN_ROOT = 0x10n;
  const dir = openSync(root, O_PATH);
  try {
    const how = new BigUint64Array([BigInt(flags | O_CLOEXEC), 0n, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS]);
    for (let attempt = 1; ; attempt += 1) {
      const fd = Number(openat2(SYS_openat2, dir, path, how, how.byteLength));
      // EAGAIN: a rename or mount anywhere on the machine meanwhile, so that the kernel cannot vouch for a `..`.
      if (fd >= 0 || koffi.errno() !== koffi.os.errno.EAGAIN || attempt === OPENAT2_ATTEMPTS) return check(fd, 'openat2', path);
    }
  } finally {
    closeSync(dir);
  }
}

/** What `posixSpawnAsync` starts. */
export interface SpawnRequest {
  /** Absolute path. */
  readonly path: string;
  /** With argv[0]. */
  readonly argv: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  /** The child's fd 0, 1, …: `/dev/null` or an fd of ours. */
  readonly stdio: readonly ('ignore' | number)[];
  readonly cwd?: string | undefined;
}

/** Room for glibc's `posix_spawn_file_actions_t` (80 bytes), `posix_spawnattr_t` (336) and `sigset_t` (128). */
const SPAWN_STRUCT_BYTES = 512;

/**
 * Starts a process in a session of its own, with all signals at their default, by posix_spawn(3): the child borrows our
 * memory until it executes, so that its price does not grow with our heap as that of fork(2) does. It waits for that on a
 * thread of the pool, and the event loop goes on. The caller keeps the fds open meanwhile and must `reap` the process.
 * @throws {SysError} `ENOENT`, `EACCES`, … as execve(2) has it.
 */
export async function posixSpawnAsync({ path, argv, env, stdio, cwd }: SpawnRequest): Promise<number> {
  const POSIX_SPAWN_SETSIGDEF = 4;
  const POSIX_SPAWN_SETSIGMASK = 8;
  const POSIX_SPAWN_SETSID = 0x80;
  const actions = Buffer.alloc(SPAWN_STRUCT_BYTES);
  const attributes = Buffer.alloc(SPAWN_STRUCT_BYTES);
  const ok = (error: number, what: string): void => {
    if (error !== 0) throw new SysError(what, path, error);
  };
  ok(native.actionsInit(actions), 'posix_spawn_file_actions_init');
  ok(native.attrInit(attributes), 'posix_spawnattr_init');
  try {
    // Fds of ours that lie where the child's go would be overwritten before they are copied.
    const clash = stdio.find((fd) => typeof fd === 'number' && fd < stdio.length);
    if (clash !== undefined) throw new SysError('posix_spawn (fd below the number of stdio entries)', path, koffi.os.errno.EINVAL ?? 22);
    for (const [target, source] of stdio.entries()) {
      const error = source === 'ignore' ? native.actionsOpen(actions, target, '/dev/null', 2, 0) : native.actionsDup2(actions, source, target);
      ok(error, 'posix_spawn_file_actions');
    }
    // Ours close on exec; what the daemon itself was handed at its start may not.
    ok(native.actionsClosefrom(actions, stdio.length), 'posix_spawn_file_actions_addclosefrom_np');
    if (cwd !== undefined) ok(native.actionsChdir(actions, cwd), 'posix_spawn_file_actions_addchdir_np');
    // Node ignores SIGPIPE, which execve(2) would hand down.
    ok(native.attrSigdefault(attributes, Buffer.alloc(SPAWN_STRUCT_BYTES, 0xff)), 'posix_spawnattr_setsigdefault');
    ok(native.attrSigmask(attributes, Buffer.alloc(SPAWN_STRUCT_BYTES)), 'posix_spawnattr_setsigmask');
    ok(native.attrFlags(attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID), 'posix_spawnattr_setflags');
    const pid = [0];
    const error = await callAsync(native.spawn, [pid, path, actions, attributes, [...argv, null], [...env, null]], 'posix_spawn', path);
    ok(error, 'posix_spawn');
    return pid[0] as number;
  } finally {
    native.actionsDestroy(actions);
    native.attrDestroy(attributes);
  }
}

/** How a process ended. */
export type ProcessEnd = { readonly exitCode: number; readonly signal: undefined } | { readonly exitCode: undefined; readonly signal: number };

/** Collects a child started by `posixSpawnAsync` if it has ended; `undefined` while it runs. */
export function reap(pid: number): ProcessEnd | undefined {
  const WNOHANG = 1;
  const status = [0];
  if (check(native.waitpid(pid, status, WNOHANG), 'waitpid', String(pid)) === 0) return undefined;
  const value = status[0] as number;
  const signal = value & 0x7f;
  return signal === 0 ? { exitCode: (value >> 8) & 0xff, signal: undefined } : { exitCode: undefined, signal };
}

/** A unix stream socket that is connected to nothing. The caller closes it. */
export function unixSocket(): number {
  const AF_UNIX = 1;
  const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;
  return check(native.socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0), 'socket', 'AF_UNIX');
}

/**
 * Connects to a unix socket that keeps packets apart (SOCK_SEQPACKET) without ever waiting. The descriptor does not block
 * and is the caller's to close.
 * @throws {SysError} `EAGAIN` while too many wait to be accepted, `ECONNREFUSED`, `ENOENT`.
 */
export function connectPackets(path: string): number {
  const AF_UNIX = 1;
  const SOCK_SEQPACKET_NONBLOCK_CLOEXEC = 5 | 0o4000 | 0o2000000;
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(path), Buffer.from([0])]);
  const fd = check(native.socket(AF_UNIX, SOCK_SEQPACKET_NONBLOCK_CLOEXEC, 0), 'socket', path);
  try {
    check(native.connect(fd, address, address.length), 'connect', path);
    return fd;
  } catch (err) {
    closeSync(fd);
    throw err;
  }
}

/** Makes the number `target` stand for what `source` does; what it stood for is closed. It closes on exec. */
export function replaceDescriptor(source: number, target: number): void {
  const O_CLOEXEC = 0o2000000;
  check(native.dup3(source, target, O_CLOEXEC), 'dup3', String(target));
}

const syscallInts = libc.func('long syscall(long, long, long, long)');
const fcntl = libc.func('int fcntl(int, int, int)');

/**
 * Makes a descriptor of another process not block, by way of the open file that it shares with a copy taken from there.
 * Source: pidfd_getfd(2), Linux 5.6.
 * @throws {SysError} `EPERM` without CAP_SYS_PTRACE, `ESRCH`, `EBADF`.
 */
export function unblockDescriptorOf(pid: number, fd: number): void {
  const SYS_pidfd_open = 434; // the same on every architecture, as the next
  const SYS_pidfd_getfd = 438;
  const F_GETFL = 3;
  const F_SETFL = 4;
  const O_NONBLOCK = 0o4000;
  const process = check(Number(syscallInts(SYS_pidfd_open, pid, 0, 0)), 'pidfd_open', String(pid));
  try {
    const copy = check(Number(syscallInts(SYS_pidfd_getfd, process, fd, 0)), 'pidfd_getfd', `${pid}/${fd}`);
    try {
      check(fcntl(copy, F_SETFL, check(fcntl(copy, F_GETFL, 0), 'fcntl', String(fd)) | O_NONBLOCK), 'fcntl', String(fd));
    } finally {
      closeSync(copy);
    }
  } finally {
    closeSync(process);
  }
}

const recv = libc.func('int64_t recv(int, _Out_ uint8_t*, size_t, int)');

/** Takes what the kernel holds for a packet socket, without waiting. */
export function receivePackets(fd: number): Buffer[] {
  const MSG_DONTWAIT = 0x40;
  const buffer = Buffer.alloc(65_536);
  const packets: Buffer[] = [];
  for (;;) {
    const length = Number(recv(fd, buffer, buffer.length, MSG_DONTWAIT));
    if (length <= 0) return packets;
    packets.push(Buffer.from(buffer.subarray(0, length)));
  }
}
