import type { Duplex } from 'node:stream';
import { CriError } from '#base/errors.ts';
import type { LiveSession } from './conduct.ts';
import type { Limits } from './exec-spdy.ts';
import { forward } from './forward.ts';
import type { PortConnector } from './session.ts';
import { SpdyConnection } from './spdy.ts';
import type { SpdyError } from './spdy-frame.ts';
import type { SpdyStream } from './spdy-stream.ts';

export const FORWARD_SPDY_PROTOCOLS = ['portforward.k8s.io'] as const;

/** The streams of one connection, until both are there. */
interface Pair {
  data?: SpdyStream;
  error?: SpdyStream;
  readonly port: number;
  readonly clock: NodeJS.Timeout;
}

/** Serves port-forward to a client that speaks SPDY: two streams for each connection, with the port in their headers. */
export function serveForwardSpdy(transport: Duplex, head: Buffer, limits: Limits, connect: PortConnector, report: (err: SpdyError) => void): LiveSession {
  const controller = new AbortController();
  const pairs = new Map<string, Pair>();
  const { promise: done, resolve } = Promise.withResolvers<void>();

  const end = (reason: CriError): void => {
    for (const { clock, error } of pairs.values()) {
      clearTimeout(clock);
      error?.end(reason.message);
    }
    pairs.clear();
    controller.abort(reason);
    connection.close();
  };
  const giveUp = (key: string, { data, error, port }: Pair): void => {
    pairs.delete(key);
    const missing = data === undefined ? 'data' : 'error';
    error?.end(`forward to port ${port}: the ${missing} stream was not opened within ${limits.creationTimeoutMs / 1_000} s`);
    data?.destroy();
  };

  const connection: SpdyConnection = new SpdyConnection(transport, head, limits.idleTimeoutMs, {
    stream(stream) {
      const role = stream.headers.get('streamtype');
      const port = parsePort(stream.headers.get('port'));
      if (port === undefined || (role !== 'data' && role !== 'error') || controller.signal.aborted) return false;
      const key = requestOf(stream, role);
      let pair = pairs.get(key);
      if (pair === undefined) {
        const made: Pair = { port, clock: setTimeout(() => giveUp(key, made), limits.creationTimeoutMs) };
        pair = made;
        pairs.set(key, pair);
      }
      if (pair[role] !== undefined || pair.port !== port) return false;
      pair[role] = stream;
      stream.once('close', () => {
        if (pairs.get(key) !== pair) return; // already at work
        clearTimeout(pair.clock);
        pairs.delete(key);
        pair.data?.destroy();
        pair.error?.destroy();
      });
      if (role === 'error') stream.resume(); // nothing is to come but its end
      const { data, error, clock } = pair;
      if (data === undefined || error === undefined) return true;
      clearTimeout(clock);
      pairs.delete(key);
      setImmediate(() => void forward({ data, error }, port, connect, controller.signal));
      return true;
    },
    idle: () => end(new CriError('deadlineExceeded', `streaming: nothing was sent or received for ${limits.idleTimeoutMs / 1_000} s`)),
    closed(err) {
      for (const { clock } of pairs.values()) clearTimeout(clock);
      pairs.clear();
      controller.abort(new CriError('cancelled', 'streaming: the client has gone'));
      resolve();
      if (err !== undefined) report(err);
    },
  });
  return { end, done };
}

export function parsePort(text: string | undefined): number | undefined {
  const port = /^\d{1,5}$/.test(text ?? '') ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** Clients before Kubernetes 1.1 sent no request id; they open the error stream and right after it the data stream. */
function requestOf({ id, headers }: SpdyStream, role: 'data' | 'error'): string {
  return headers.get('requestid') ?? `stream ${role === 'error' ? id : id - 2}`;
}
