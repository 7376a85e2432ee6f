import { EventEmitter, once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { Duplex, duplexPair } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';
import type { CriError } from '#base/errors.ts';
import { accept, type Ticket } from '../../../../server/stream/accept.ts';
import type { PortConnector, SessionHandler } from '../../../../server/stream/session.ts';
import { type ClientStream, SpdyClient } from '../../../fakes/spdy-client.ts';

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
  const live = accept({ request: request as unknown as IncomingMessage, socket: transport as Socket, head: Buffer.alloc(0), limits, report: () => {} }, ticket);
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

test.each([
  ['exec', webSocket('v5.channel.k8s.io')],
  ['port-forward', webSocket('SPDY/3.1+portforward.k8s.io')],
])('a client of WebSocket that reads no answers to its pings is cut off: %s', async (what, headers) => {
  const handler: SessionHandler = async ({ signal }) => {
    await once(signal, 'abort');
    throw signal.reason;
  };
  const ticket: Ticket =
    what === 'exec'
      ? { kind: 'exec', streams: PIPE, handler }
      : { kind: 'portforward', pod: 'p', ports: [], connect: () => Promise.reject(new Error('not asked')) };
  const { transport, far } = begin(headers, ticket);
  const ping = Buffer.concat([Buffer.from([0x89, 0x80 | 125, 0, 0, 0, 0]), Buffer.alloc(125)]);
  const pings = Buffer.concat(Array.from({ length: 500 }, () => ping));
  for (let sent = 0; sent < 100 && !transport.destroyed; sent += 1) {
    far.write(pings);
    await turn();
  }
  expect(transport.destroyed).toBe(true);
  expect(transport.writableLength).toBeLessThan(2 * 1024 * 1024);
});

const PAIRS = 400;
/** What all streams of a connection may hold together, each way. */
const MAX_HELD = 40 * 1024 * 1024;

async function openPairs(far: Duplex, count = PAIRS): Promise<{ client: SpdyClient; streams: ClientStream[] }> {
  await once(far, 'readable');
  expect(String(far.read())).toMatch(/^HTTP\/1\.1 101 .*\r\n\r\n$/s);
  const client = new SpdyClient(far, Buffer.alloc(0), '');
  const streams: ClientStream[] = [];
  for (let index = 0; index < count; index += 1) {
    const headers = { port: '80', requestID: String(index) };
    (await client.open({ streamType: 'error', ...headers })).end();
    streams.push(await client.open({ streamType: 'data', ...headers }));
  }
  await Promise.all(streams.map(({ accepted }) => accepted));
  return { client, streams };
}

test('many connections to a pod that reads nothing hold little memory together', async () => {
  const stuck: PortConnector = async () => new Duplex({ allowHalfOpen: true, read() {}, write() {} });
  const { far, transport } = begin(spdy('portforward.k8s.io'), { kind: 'portforward', pod: 'p', ports: [], connect: stuck });
  const { client, streams } = await openPairs(far);
  for (const stream of streams) for (let piece = 0; piece < 4; piece += 1) void stream.write(CHUNK.subarray(0, 60_000));
  await turns();
  const taken = PAIRS * 4 * 60_000 - far.writableLength;
  expect(taken).toBeGreaterThan(0);
  expect(taken).toBeLessThan(MAX_HELD);
  client.destroy();
  transport.destroy();
});

test('many connections from a pod to a client that reads nothing hold little memory together', async () => {
  let given = 0;
  const busy: PortConnector = async (_port, inbox) => {
    const pod = new Duplex({
      allowHalfOpen: true,
      read() {
        while (inbox.callback(CHUNK.length, Buffer.from(CHUNK))) given += CHUNK.length;
        given += CHUNK.length;
      },
      write() {},
    });
    return pod;
  };
  const { far, transport } = begin(spdy('portforward.k8s.io'), { kind: 'portforward', pod: 'p', ports: [], connect: busy });
  const { client } = await openPairs(far);
  far.pause();
  await turns();
  expect(given).toBeGreaterThan(PAIRS * CHUNK.length - 1);
  expect(given).toBeLessThan(MAX_HELD);
  client.destroy();
  transport.destroy();
});

test('small pieces from a pod to a client that reads nothing take few buffers', async () => {
  const buffers = new Set<unknown>();
  let given = 0;
  const drip: PortConnector = async (_port, inbox) =>
    new Duplex({
      allowHalfOpen: true,
      read() {
        const step = (): void => {
          for (let pieces = 0; pieces < 100; pieces += 1) {
            const buffer = inbox.buffer();
            given += 1;
            buffers.add(buffer.buffer); // stays in use until its piece is written
            if (!inbox.callback(1, buffer)) return;
          }
          setImmediate(step);
        };
        step();
      },
      write() {},
    });
  const { far, transport } = begin(spdy('portforward.k8s.io'), { kind: 'portforward', pod: 'p', ports: [], connect: drip });
  const { client } = await openPairs(far, 1);
  far.pause();
  for (let count = 0; count < 20; count += 1) await turns();
  expect(given).toBeGreaterThan(100);
  expect(buffers.size).toBeLessThan(20);
  client.destroy();
  transport.destroy();
});
