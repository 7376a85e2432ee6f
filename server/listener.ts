import { chmod, mkdir } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { type Server, ServerCredentials } from '@grpc/grpc-js';
import type { Log } from '#base/log.ts';
import { bindSocket } from '#base/unix-socket.ts';
import { greet } from './greeting.ts';
import { limitTimeouts } from './grpc-timeout.ts';

/**
 * Serves on the unix socket at `path`, which only its owner and group may use, through the `:authority` filter. A socket
 * that nobody answers on is replaced. Disposing takes no more clients and removes the socket file, unless somebody put
 * another in its place; clients that are there stay until `shutDown`.
 * @throws as `bindSocket()`.
 */
export async function listen(server: Server, path: string, log: Log): Promise<AsyncDisposable> {
  const dir = dirname(path);
  const made = await mkdir(dir, { recursive: true });
  if (made !== undefined) await chmod(dir, 0o755);

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
    const bound = await bindSocket(acceptor, path, { mode: 0o660, what: 'listen on' });
    if (bound.wasStale) log.info({ path }, 'Replaced stale socket');
    acceptor.on('error', (err) => log.error({ err, path }, 'Could not accept client'));
    const limited = limitTimeouts();
    return {
      async [Symbol.asyncDispose]() {
        acceptor.close();
        for (const socket of greeted) socket.destroy();
        limited[Symbol.dispose]();
        await bound[Symbol.asyncDispose]();
      },
    };
  } catch (err) {
    acceptor.close();
    injector.destroy();
    throw err;
  }
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
