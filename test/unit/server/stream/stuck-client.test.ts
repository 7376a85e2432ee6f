import { EventEmitter, once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { type Duplex, duplexPair, Writable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';
import type { CriError } from '#base/errors.ts';
import { silentLog } from '#base/log.ts';
import { accept, type Ticket } from '../../../../server/stream/accept.ts';
import { serveStreams } from '../../../../server/stream/server.ts';
import type { PortConnector, SessionHandler } from '../../../../server/stream/session.ts';
import { SpdyClient } from '../../../fakes/spdy-client.ts';

afterEach(() => void vi.useRealTimers());

const CHUNK = Buffer.alloc(64 * 1024, 'x');
const PIPE = { stdin: true, stdout: true, stderr: false, tty: false };
const IDLE_MS = 60_000;
/** How long a client may take to hear that its session is over. */
const LINGER_MS = 10_000;

/** Writes until it is stopped, and tells why it was. */
function flood(): { handler: SessionHandler; reason: Promise<CriError> } {
  const { promise: reason, resolve } = Promise.withResolvers<CriError>();
  const handler: SessionHandler = async ({ stdout, signal }) => {
    const ended = once(signal, 'abort');
    while (!signal.aborted) if (stdout?.write(CHUNK) === false) await Promise.race([once(stdout, 'drain'), ended]);
    resolve(signal.reason);
    throw signal.reason;
  };
  return { handler, reason };
}

const WEBSOCKET = { upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' };
const spdy = (protocol: string) => ({ upgrade: 'SPDY/3.1', 'x-stream-protocol-version': protocol });
const webSocket = (protocol: string) => ({ ...WEBSOCKET, 'sec-websocket-protocol': protocol });

/** A session over a connection in memory; the client's end of it is read by nobody. */
function begin(headers: Readonly<Record<string, string>>, ticket: Ticket): { transport: Duplex; far: Duplex } {
  const [transport, far] = duplexPair();
  const request = Object.assign(new EventEmitter(), { method: 'GET', url: '/', headers: { connection: 'Upgrade', ...headers } });
  const limits = { idleTimeoutMs: IDLE_MS, creationTimeoutMs: 30_000 };
  const live = accept(
    { request: request as unknown as IncomingMessage, socket: transport as Socket, head: Buffer.alloc(0), limits, report: () => {} },
    ticket,
  );
  if (live === undefined || !('done' in live)) throw new Error('not accepted');
  return { transport, far };
}

const turns = async (): Promise<void> => {
  for (let count = 0; count < 100; count += 1) await turn();
};

test.each([
  ['exec by SPDY', spdy('v4.channel.k8s.io')],
  ['exec by WebSocket', webSocket('v5.channel.k8s.io')],
])('a client that takes nothing is cut off soon after its idle timeout: %s', async (_what, headers) => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
  const { handler, reason } = flood();
  const { transport, far } = begin(headers, { kind: 'exec', streams: PIPE, handler });
  if (headers.upgrade === 'SPDY/3.1') {
    const client = new SpdyClient(far, Buffer.alloc(0), '');
    client.socket.pause();
    for (const streamType of ['error', 'stdin', 'stdout']) await client.open({ streamType });
  }
  await turns();
  vi.advanceTimersByTime(IDLE_MS);
  expect(await reason).toMatchObject({ kind: 'deadlineExceeded' });
  await turns();
  expect(transport.destroyed).toBe(false); // it may still take the reason
  vi.advanceTimersByTime(LINGER_MS);
  expect(transport.destroyed).toBe(true);
});

test.each([
  ['SPDY', spdy('portforward.k8s.io')],
  ['WebSocket', webSocket('v4.channel.k8s.io')],
  ['SPDY in WebSocket', webSocket('SPDY/3.1+portforward.k8s.io')],
])('a port-forward whose client takes nothing is cut off soon after its idle timeout: %s', async (_what, headers) => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
  const { transport, far } = begin(headers, { kind: 'portforward', pod: 'p', ports: [80], connect: () => Promise.reject(new Error('closed port')) });
  far.pause();
  await turns();
  vi.advanceTimersByTime(IDLE_MS);
  await turns();
  vi.advanceTimersByTime(LINGER_MS);
  await turns();
  expect(transport.destroyed).toBe(true);
});
