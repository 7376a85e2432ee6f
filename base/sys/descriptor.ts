import { closeSync } from 'node:fs';
import { check, ERRNO, errno, libc, O_CLOEXEC, SysError } from './libc.ts';

const native = {
  flock: libc.func('int flock(int, int)'),
  fcntl: libc.func('int fcntl(int, int, int)'),
  pipe2: libc.func('int pipe2(_Out_ int*, int)'),
  fchown: libc.func('int fchown(int, uint32_t, uint32_t)'),
  dup3: libc.func('int dup3(int, int, int)'),
  syscallInts: libc.func('long syscall(long, long, long, long)'),
};

/**
 * Locks an open file for its descriptor alone; the kernel frees it with the last copy of that, however the process ends.
 * False when another has it. Source: flock(2).
 */
export function tryLock(fd: number): boolean {
  const LOCK_EX = 2;
  const LOCK_NB = 4;
  if (native.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  if (errno() === ERRNO.EWOULDBLOCK) return false;
  throw new SysError('flock', String(fd), errno());
}

/** What a pipe holds: its writer may run ahead of a busy reader by a few reads. The kernel's default is 64 KiB. */
const PIPE_BYTES = 256 * 1024;

/** A real pipe (Node's own `'pipe'` is a socket pair, which cannot be opened through /dev/stderr). Both ends close on exec. */
export function pipe(): { readonly read: number; readonly write: number } {
  const fds = [0, 0];
  check(native.pipe2(fds, O_CLOEXEC), 'pipe2', '');
  const F_SETPIPE_SZ = 1031;
  native.fcntl(fds[0] as number, F_SETPIPE_SZ, PIPE_BYTES); // refused past the user's share of pipe memory: then it is a small one
  return { read: fds[0] as number, write: fds[1] as number };
}

export function fchown(fd: number, uid: number, gid: number): void {
  check(native.fchown(fd, uid, gid), 'fchown', String(fd));
}

/** Makes the number `target` stand for what `source` does; what it stood for is closed. It closes on exec. */
export function replaceDescriptor(source: number, target: number): void {
  check(native.dup3(source, target, O_CLOEXEC), 'dup3', String(target));
}

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
  const process = check(Number(native.syscallInts(SYS_pidfd_open, pid, 0, 0)), 'pidfd_open', String(pid));
  try {
    const copy = check(Number(native.syscallInts(SYS_pidfd_getfd, process, fd, 0)), 'pidfd_getfd', `${pid}/${fd}`);
    try {
      check(native.fcntl(copy, F_SETFL, check(native.fcntl(copy, F_GETFL, 0), 'fcntl', String(fd)) | O_NONBLOCK), 'fcntl', String(fd));
    } finally {
      closeSync(copy);
    }
  } finally {
    closeSync(process);
  }
}
