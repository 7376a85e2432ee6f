import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { CriError, describeError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { bindSocket } from '#base/unix-socket.ts';
import type { Metrics } from './metrics.ts';

export interface MetricsServerOptions {
  readonly registry: Metrics['registry'];
  readonly host: string;
  /** 0 picks a free port. */
  readonly port: number;
  /** Path of a unix socket to serve on as well; empty for none. */
  readonly socket: string;
  /** What else is answered, as JSON, by path: asked at each request. */
  readonly resources: Readonly<Record<string, () => object>>;
  readonly log: Log;
}

export interface MetricsServer extends AsyncDisposable {
  /** Where it listens on TCP: `127.0.0.1:9090`, `[::1]:9090`. */
  readonly address: string;
  readonly port: number;
}

/**
 * Serves `/metrics`, `/healthz` and the resources given on TCP and, if asked, on a unix socket (mode 0660).
 * @throws {CriError} `failedPrecondition` when the address or the socket is in use.
 */
export async function serveMetrics({ registry, host, port, socket, resources, log }: MetricsServerOptions): Promise<MetricsServer> {
  await using undo = new AsyncDisposableStack();
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    serve({ registry, resources }, request, response).catch((err: unknown) => {
      log.error({ err }, 'Could not serve metrics');
      if (response.headersSent) response.destroy();
      else reply(response, 500, 'metrics could not be collected\n');
    });
  };

  const notAccepted = (err: Error): void => log.warn({ err }, 'Could not accept metrics client');

  const tcp = newServer(answer);
  undo.defer(() => close(tcp));
  await listen(tcp, `${host}:${port}`, () => tcp.listen({ host, port }));
  tcp.on('error', notAccepted);
  if (socket !== '') {
    const unix = newServer(answer);
    undo.defer(() => close(unix));
    undo.use(await bindSocket(unix, socket, { mode: 0o660, what: 'serve metrics on' }));
    unix.on('error', notAccepted);
  }

  const bound = tcp.address();
  if (bound === null || typeof bound === 'string') throw new Error(`metrics listen on ${host}:${port}: no address`);
  const kept = undo.move();
  return {
    address: bound.family === 'IPv6' ? `[${bound.address}]:${bound.port}` : `${bound.address}:${bound.port}`,
    port: bound.port,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** Limits for whoever connects: the port is often open to the whole node network. */
function newServer(answer: (request: IncomingMessage, response: ServerResponse) => void): Server {
  const server = createServer({ headersTimeout: 5_000, requestTimeout: 5_000, keepAliveTimeout: 5_000, maxHeaderSize: 8_192 }, answer);
  server.maxConnections = 32;
  server.setTimeout(30_000); // a client that does not read its answer
  return server;
}

async function serve(
  { registry, resources }: Pick<MetricsServerOptions, 'registry' | 'resources'>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  request.resume();
  const path = request.url?.split('?', 1)[0] ?? '';
  const resource = Object.hasOwn(resources, path) ? resources[path] : undefined;
  if (path !== '/metrics' && path !== '/healthz' && resource === undefined) return reply(response, 404, 'not found\n');
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return reply(response, 405, 'method not allowed\n');
  }
  if (path === '/healthz') return reply(response, 200, 'ok\n');
  if (resource !== undefined) {
    response.setHeader('content-type', 'application/json');
    return reply(response, 200, `${JSON.stringify(resource())}\n`);
  }
  const text = await registry.metrics();
  response.setHeader('content-type', registry.contentType);
  reply(response, 200, text);
}

function reply(response: ServerResponse, status: number, text: string): void {
  response.statusCode = status;
  if (!response.hasHeader('content-type')) response.setHeader('content-type', 'text/plain; charset=utf-8');
  response.setHeader('content-length', Buffer.byteLength(text));
  response.end(text); // node leaves the body out for HEAD
}

function listen(server: Server, where: string, start: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (err: Error): void => reject(new CriError('failedPrecondition', `serve metrics on ${where}: ${describeError(err)}`, { cause: err }));
    server.once('error', fail);
    server.once('listening', () => {
      server.off('error', fail);
      resolve();
    });
    start();
  });
}

/** A scrape under way is cut off: Prometheus asks again. */
function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
