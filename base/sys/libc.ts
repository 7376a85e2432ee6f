import koffi from 'koffi';

/**
 * The C library, for the files of this folder: the one place with foreign calls. They are synchronous and take microseconds
 * unless their name ends in `Async`, which run on libuv's thread pool. Errors are `SysError`s with `code` set as Node's own
 * have it.
 */
export const libc = koffi.load('libc.so.6');

export const AT_FDCWD = -100;
export const O_CLOEXEC = 0o2000000;

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

/** The errno of the call before. */
export const errno = (): number => koffi.errno();

/** Numbers of errors by their names. */
export const ERRNO = koffi.os.errno;

/** The result, or the error that it stands for. */
export function check(result: number, syscall: string, subject: string): number {
  if (result < 0) throw new SysError(syscall, subject, koffi.errno());
  return result;
}

/** Calls on the thread pool; errno is kept for the callback by koffi. */
export function callAsync(fn: { async: (...args: unknown[]) => unknown }, args: unknown[], syscall: string, subject: string): Promise<number> {
  return new Promise((resolve, reject) => {
    fn.async(...args, (err: unknown, result: number) => {
      if (err !== null && err !== undefined) reject(err);
      else if (result < 0) reject(new SysError(syscall, subject, koffi.errno()));
      else resolve(result);
    });
  });
}
