import type { Stats } from 'node:fs';
import { chmod, lstat, mkdir, mkdtempDisposable, rename, unlink } from 'node:fs/promises';
import { type Server as Acceptor, connect, createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { type Server, ServerCredentials } from '@grpc/grpc-js';
import { CriError, isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { greet } from './greeting.ts';
import { limitTimeouts } from './grpc-timeout.ts';

/** `sun_path` less its final zero: unix(7). */
const maxPathBytes = 107;

/** How long a process may take to accept before it counts as one that answers. */
const probeTimeoutMs = 2000;

/**
 * Serves on the unix socket at `path`, which only its owner and group may use, through the `:authority` filter. A socket
 * that nobody answers on is replaced. Disposing takes no more clients and removes the socket file, unless somebody put
 * another in its place; clients that are there stay until `shutDown`.
 * @throws {CriError} failedPrecondition when something else is at `path`, or another process answers there.
 */
export async function listen(server: Server, path: string, log: Log): Promise<AsyncDisposable> {
  if (Buffer.byteLength(path) > maxPathBytes) throw new CriError('invalidArgument', `listen on ${path}: the path is longer than ${maxPathBytes} bytes`);
  const dir = dirname(path);
  const made = await mkdir(dir, { recursive: true });
  if (made !== undefined) await chmod(dir, 0o755);
  if (await isStale(path)) log.info({ path }, 'Found stale socket');

  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  // Those that have not said anything yet are not known to the server, so that its end is not theirs.
  const greeted = new Set<Socket>();
  const acceptor = createServer((socket) => {
    greeted.add(socket);
    socket.once('close', () => greeted.delete(socket));
    greet(socket, (connection) => {
      greeted.delete(socket);
      injector.injectConnection(connection);
    });
  });
  try {
    const ours = await bind(acceptor, path);
    acceptor.on('error', (err) => log.error({ err, path }, 'Could not accept client'));
    const limited = limitTimeouts();
    return {
      async [Symbol.asyncDispose]() {
        acceptor.close();
        for (const socket of greeted) socket.destroy();
        limited[Symbol.dispose]();
        const there = await lstat(path).catch(() => undefined);
        if (there?.ino === ours.ino && there.dev === ours.dev) await unlink(path);
      },
    };
  } catch (err) {
    acceptor.close();
    injector.destroy();
    throw err;
  }
}

/**
 * Makes the socket where nobody else can look and moves it to its place when its mode is right: at no moment is it open
 * to more than it should be (a umask would hold for all threads of the process), and a stale one is replaced at once.
 */
async function bind(acceptor: Acceptor, path: string): Promise<Stats> {
  await using hidden = await mkdtempDisposable(join(dirname(path), '.'));
  const socket = join(hidden.path, 's');
  await new Promise<void>((resolve, reject) => {
    acceptor.once('error', reject);
    acceptor.listen(socket, () => {
      acceptor.off('error', reject);
      resolve();
    });
  });
  await chmod(socket, 0o660);
  const stats = await lstat(socket);
  await rename(socket, path);
  return stats;
}

/**
 * Ends a server: clients get GOAWAY, running calls may finish for `graceMs` milliseconds, what is left then is cut off.
 * `drain` ends what would not end by itself, as that of `buildServices` does. False when something was cut off.
 */
export async function shutDown(server: Server, drain: () => Promise<void>, graceMs: number): Promise<boolean> {
  const closed = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => {
    server.forceShutdown();
    resolve(false);
  }, graceMs);
  try {
    return await Promise.race([Promise.all([closed, drain()]).then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** True when there is a socket at the path and nobody behind it, false when there is nothing. */
async function isStale(path: string): Promise<boolean> {
  const stats = await lstat(path).catch((err: unknown) => {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  });
  if (stats === undefined) return false;
  if (!stats.isSocket()) throw new CriError('failedPrecondition', `listen on ${path}: something that is no socket is there`);
  if (await answers(path)) throw new CriError('failedPrecondition', `listen on ${path}: another process answers there`);
  return true;
}

/** A full backlog (EAGAIN) or a forbidden socket (EACCES) has somebody behind it too: only a refusal says that nobody is. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path, timeout: probeTimeoutMs });
    const settle = (answer: boolean): void => {
      probe.destroy();
      resolve(answer);
    };
    probe.once('connect', () => settle(true));
    probe.once('timeout', () => settle(true));
    probe.once('error', (err) => settle(!isErrno(err, 'ECONNREFUSED', 'ENOENT')));
  });
}
