import type { Stats } from 'node:fs';
import { chmod, lstat, mkdtempDisposable, rename, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { CriError, describeError, isErrno } from './errors.ts';

/** `sun_path` less its final zero: unix(7). */
const MAX_PATH_BYTES = 107;

/** How long a process may take to accept before it counts as one that answers. */
const PROBE_MS = 2000;

/** A unix socket that a server listens on. Disposing removes its file, unless somebody put another in its place. */
export interface BoundSocket extends AsyncDisposable {
  /** There was one already, which nobody answered on. */
  readonly wasStale: boolean;
}

/**
 * Makes a server listen on the unix socket at `path`, with this mode and never with another. A socket that nobody answers on
 * is replaced.
 * @param what begins a message, such as `listen on`.
 * @throws {CriError} failedPrecondition when something else is at `path`, another process answers there, or there can be none.
 */
export async function bindSocket(server: Server, path: string, { mode, what }: { readonly mode: number; readonly what: string }): Promise<BoundSocket> {
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) throw new CriError('invalidArgument', `${what} ${path}: the path is longer than ${MAX_PATH_BYTES} bytes`);
  const wasStale = await isStale(path, what);
  const ours = await bind(server, path, mode).catch((err: unknown) => {
    server.close(() => {}); // it may listen where nobody finds it
    throw new CriError('failedPrecondition', `${what} ${path}: ${describeError(err)}`, { cause: err });
  });
  return {
    wasStale,
    async [Symbol.asyncDispose]() {
      const there = await lstat(path).catch(() => undefined);
      if (there?.ino === ours.ino && there.dev === ours.dev) await unlink(path);
    },
  };
}

/**
 * Makes the socket where nobody else can look and moves it to its place when its mode is right: at no moment is it open
 * to more than it should be (a umask would hold for all threads of the process), and a stale one is replaced at once.
 */
async function bind(server: Server, path: string, mode: number): Promise<Stats> {
  await using hidden = await mkdtempDisposable(join(dirname(path), '.'));
  const socket = join(hidden.path, 's');
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socket, () => {
      server.off('error', reject);
      resolve();
    });
  });
  await chmod(socket, mode);
  const stats = await lstat(socket);
  await rename(socket, path);
  return stats;
}

/** True when there is a socket at the path and nobody behind it, false when there is nothing. */
async function isStale(path: string, what: string): Promise<boolean> {
  const stats = await lstat(path).catch((err: unknown) => {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  });
  if (stats === undefined) return false;
  if (!stats.isSocket()) throw new CriError('failedPrecondition', `${what} ${path}: something that is no socket is there`);
  if (await answers(path)) throw new CriError('failedPrecondition', `${what} ${path}: another process answers there`);
  return true;
}

/** A full backlog (EAGAIN) or a forbidden socket (EACCES) has somebody behind it too: only a refusal says that nobody is. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path, timeout: PROBE_MS });
    const settle = (answer: boolean): void => {
      probe.destroy();
      resolve(answer);
    };
    probe.once('connect', () => settle(true));
    probe.once('timeout', () => settle(true));
    probe.once('error', (err) => settle(!isErrno(err, 'ECONNREFUSED', 'ENOENT')));
  });
}
