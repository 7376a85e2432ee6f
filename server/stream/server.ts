import { createServer, type IncomingMessage, type Server, type ServerOptions } from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import { isIPv6, type Socket } from 'node:net';
import { CriError, describeError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { accept, type Ticket } from './accept.ts';
import type { LiveSession } from './conduct.ts';
import type { Limits } from './exec-spdy.ts';
import type { StreamUrls } from './session.ts';
import { TlsFiles, type TlsOptions } from './tls.ts';
import { Tokens } from './tokens.ts';
import { notAnUpgrade, notFound, refusalMessage } from './upgrade.ts';

export interface StreamServerOptions extends Limits {
  /** IP address to listen on. */
  readonly address: string;
  /** 0 picks a free one. */
  readonly port: number;
  readonly tls?: TlsOptions | undefined;
  readonly log: Log;
  /** How long a client's machine may be silent before it is asked whether it is there. Default 15,000. */
  readonly keepAliveMs?: number;
  /** Between two looks at the files of TLS. Default 5,000. */
  readonly tlsLookMs?: number;
}

export interface StreamServer extends StreamUrls, AsyncDisposable {
  /** What URLs begin with: `http://127.0.0.1:40123`. */
  readonly baseUrl: string;
}

/** How long handlers may take to end what they run, and clients to take the reason, when the daemon stops. */
const STOP_GRACE_MS = 10_000;
const FAREWELL_MS = 1_000;
const MAX_CONNECTIONS = 4_096;
/** Limits for whoever connects; they end with the upgrade. */
const HTTP_LIMITS: ServerOptions = { headersTimeout: 10_000, requestTimeout: 10_000, connectionsCheckingInterval: 5_000, maxHeaderSize: 16 * 1024 };

/**
 * Serves exec, attach and port-forward to whoever has a URL for it, by SPDY and by WebSocket.
 * @throws {CriError} `failedPrecondition` when the address is in use or a file of TLS cannot be used.
 */
export async function serveStreams(options: StreamServerOptions): Promise<StreamServer> {
  const { address, port, tls, log, keepAliveMs = 15_000 } = options;
  await using undo = new AsyncDisposableStack();
  const limits: Limits = { idleTimeoutMs: options.idleTimeoutMs, creationTimeoutMs: options.creationTimeoutMs };
  const files = tls && (await TlsFiles.open(tls, log));
  const server = makeServer(files, tls);
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  const tokens = new Tokens<Ticket>();
  const sessions = new Set<{ readonly live: LiveSession; readonly pod?: string }>();
  const track = (live: LiveSession, ticket: Ticket | undefined): void => {
    const session = { live, ...(ticket?.kind === 'portforward' && { pod: ticket.pod }) };
    sessions.add(session);
    void live.done.then(() => sessions.delete(session));
  };
  const report = (err: Error): void => log.warn({ err }, 'Cut off streaming client');

  server.on('upgrade', (request, stream, head) => {
    const socket = stream as Socket;
    socket.on('error', () => {}); // `close` follows
    socket.setTimeout(0);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    const ticket = take(tokens, request);
    const outcome = ticket === undefined ? notFound : accept({ request, socket, head, limits, report }, ticket);
    if (outcome === undefined) return;
    if ('done' in outcome) track(outcome, ticket);
    else socket.end(refusalMessage(outcome), () => socket.destroySoon());
  });

  server.on('request', (request, response) => {
    request.resume();
    const { code, text } = take(tokens, request) === undefined ? notFound : notAnUpgrade;
    response.writeHead(code, { 'content-type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
  });

  const bound = await listen(server, address, port);
  server.on('error', (err) => log.warn({ err }, 'Could not accept streaming client'));
  undo.defer(() => stop(server, sockets, sessions));
  if (files !== undefined) undo.use(files.follow(server as TlsServer, options.tlsLookMs));
  const baseUrl = `${tls === undefined ? 'http' : 'https'}://${urlHost(address)}:${bound}`;
  const kept = undo.move();
  const url = (ticket: Ticket): string => `${baseUrl}/${ticket.kind}/${tokens.add(ticket)}`;
  return {
    baseUrl,
    exec: (streams, handler) => url({ kind: 'exec', streams, handler }),
    attach: (streams, handler) => url({ kind: 'attach', streams, handler }),
    portForward: (pod, ports, connect) => url({ kind: 'portforward', pod, ports, connect }),
    podStopped(pod) {
      for (const session of sessions) if (session.pod === pod) session.live.end(new CriError('failedPrecondition', 'streaming: the pod was stopped'));
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** `/exec/TOKEN`: the ticket, if there is one of this kind. A token is used up even by a request that is refused. */
function take(tokens: Tokens<Ticket>, { url = '' }: IncomingMessage): Ticket | undefined {
  const [, kind, token = '', ...rest] = url.split('?', 1)[0]?.split('/') ?? [];
  const ticket = tokens.take(token);
  return ticket?.kind === kind && rest.length === 0 ? ticket : undefined;
}

function makeServer(files: TlsFiles | undefined, tls: TlsOptions | undefined): Server {
  let server: Server;
  try {
    server =
      files === undefined
        ? createServer(HTTP_LIMITS)
        : createTlsServer({ ...HTTP_LIMITS, ...files.context, requestCert: tls?.caFile !== '', rejectUnauthorized: true, handshakeTimeout: 10_000 });
  } catch (cause) {
    throw new CriError('failedPrecondition', `streaming: ${tls?.certFile} and ${tls?.keyFile} cannot be used`, { cause });
  }
  server.maxConnections = MAX_CONNECTIONS;
  return server;
}

/** Returns the port. */
function listen(server: Server, address: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const fail = (err: Error): void => reject(new CriError('failedPrecondition', `serve streams on ${address}:${port}: ${describeError(err)}`, { cause: err }));
    server.once('error', fail);
    server.listen({ host: address, port }, () => {
      server.off('error', fail);
      const bound = server.address();
      if (bound === null || typeof bound === 'string') reject(new Error(`serve streams on ${address}:${port}: no address`));
      else resolve(bound.port);
    });
  });
}

/** The kubelet is on this node: where we listen on all addresses, it takes loopback. */
function urlHost(address: string): string {
  if (address === '0.0.0.0') return '127.0.0.1';
  if (!isIPv6(address)) return address;
  return /^[0:]+$/.test(address) ? '[::1]' : `[${address}]`;
}

/** Ends all sessions with a reason, and waits a while for what they run to end and for their clients to take it. */
async function stop(server: Server, sockets: ReadonlySet<Socket>, sessions: ReadonlySet<{ readonly live: LiveSession }>): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  const reason = new CriError('unavailable', 'streaming: berth is stopping');
  for (const { live } of sessions) live.end(reason);
  await within(STOP_GRACE_MS, Promise.all([...sessions].map(({ live }) => live.done)));
  server.closeIdleConnections();
  await within(FAREWELL_MS, closed);
  for (const socket of sockets) socket.destroy();
  await closed;
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  await Promise.race([work, late]);
  clearTimeout(timer);
}
