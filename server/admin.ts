import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { CriError, describeError, type ErrorKind } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { bindSocket } from '#base/unix-socket.ts';

/** What a route is given. */
export interface AdminCall {
  readonly url: URL;
  /** Its body is the route's to read. */
  readonly request: IncomingMessage;
  /** Aborted when the client has gone or the daemon stops. */
  readonly signal: AbortSignal;
  /** Sends a line before the answer. Skipped while the client takes nothing: what it missed the next line tells better. */
  readonly tell: (line: object) => void;
}

/** One resource of the admin socket. Its answer is one JSON object, in the last line. */
export interface AdminRoute {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly answer: (call: AdminCall) => Promise<object>;
}

/** The last line when it failed. */
export interface AdminFailure {
  readonly error: string;
}

export interface AdminDeps {
  /** The unix socket, for its owner alone: routes read any path they are given. */
  readonly path: string;
  readonly routes: readonly AdminRoute[];
  readonly log: Log;
}

/**
 * Serves what the CRI has no RPC for. HTTP on a socket of its own, since the CRI's speaks gRPC only; every answer is JSON,
 * one object a line.
 */
export async function serveAdmin({ path, routes, log }: AdminDeps): Promise<AsyncDisposable> {
  const closing = new AbortController();
  const running = new Set<Promise<void>>();
  const server = createServer((request, response) => {
    const gone = new AbortController();
    response.on('close', () => gone.abort(new CriError('cancelled', 'the client has gone')));
    const work = serve(request, response, { routes, log, signal: AbortSignal.any([closing.signal, gone.signal]) });
    running.add(work);
    void work.finally(() => running.delete(work));
  });
  server.requestTimeout = 0; // an archive comes as slowly as its source, perhaps a pipe
  const bound = await bindSocket(server, path, { mode: 0o600, what: 'serve the admin socket on' });
  server.on('error', (err) => log.warn({ err, path }, 'Could not accept client'));
  return {
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      closing.abort(new CriError('unavailable', 'the daemon is stopping'));
      await Promise.all(running);
      server.closeAllConnections();
      await closed;
      await bound[Symbol.asyncDispose]();
    },
  };
}

const statusOf: Partial<Record<ErrorKind, number>> = { invalidArgument: 400, notFound: 404, alreadyExists: 409, failedPrecondition: 409, unavailable: 503 };

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  { routes, log, signal }: Pick<AdminDeps, 'routes' | 'log'> & Pick<AdminCall, 'signal'>,
): Promise<void> {
  const head = (status: number): ServerResponse => response.writeHead(status, { 'content-type': 'application/json' });
  const reply = (status: number, body: object): void => {
    // The rest of an upload nobody reads would keep the connection from being used again.
    if (!request.complete && !response.headersSent) response.setHeader('connection', 'close');
    if (!response.headersSent) head(status);
    response.end(`${JSON.stringify(body)}\n`);
  };
  const tell = (line: object): void => {
    if (response.writableNeedDrain || response.destroyed) return;
    if (!response.headersSent) head(200);
    response.write(`${JSON.stringify(line)}\n`);
  };
  const url = new URL(request.url ?? '/', 'http://admin');
  const found = routes.filter((route) => route.path === url.pathname);
  const route = found.find(({ method }) => method === request.method);
  if (found.length === 0) return reply(404, { error: `${url.pathname}: no such resource` } satisfies AdminFailure);
  if (route === undefined) return reply(405, { error: `${request.method} ${url.pathname}: not allowed` } satisfies AdminFailure);
  const started = performance.now();
  try {
    const result = await route.answer({ url, request, signal, tell });
    log.debug({ path: url.pathname, durationMs: Math.round(performance.now() - started) }, 'Served admin request');
    reply(200, result);
  } catch (err) {
    if (err === signal.reason) log.info({ path: url.pathname, reason: describeError(err) }, 'Ended admin request early');
    else log.warn({ path: url.pathname, err }, 'Failed admin request');
    reply(err instanceof CriError ? (statusOf[err.kind] ?? 500) : 500, { error: describeError(err) } satisfies AdminFailure);
  }
}
