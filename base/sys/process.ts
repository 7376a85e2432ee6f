import { callAsync, check, ERRNO, libc, SysError } from './libc.ts';

const native = {
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
};

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
    if (clash !== undefined) throw new SysError('posix_spawn (fd below the number of stdio entries)', path, ERRNO.EINVAL ?? 22);
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
