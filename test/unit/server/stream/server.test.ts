import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { CriError } from '#base/errors.ts';
import { silentLog } from '#base/log.ts';
import { type StreamServer, type StreamServerOptions, serveStreams } from '../../../../server/stream/server.ts';
import type { PortConnector, RemoteSession, SessionHandler } from '../../../../server/stream/session.ts';
import { controlFrame, FRAME, numbersFrame } from '../../../../server/stream/spdy-frame.ts';
import { type ClientStream, Refused, SpdyClient } from '../../../fakes/spdy-client.ts';
import { until } from '../../../support/wait.ts';

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one[Symbol.asyncDispose]();
});

async function serve(options: Partial<StreamServerOptions> = {}): Promise<StreamServer> {
  const server = await serveStreams({ address: '127.0.0.1', port: 0, log: silentLog, idleTimeoutMs: 60_000, creationTimeoutMs: 30_000, ...options });
  open.push(server);
  return server;
}

const ALL = { stdin: true, stdout: true, stderr: true, tty: false };
const PIPE = { stdin: true, stdout: true, stderr: false, tty: false };

/** Sends stdin back, says so on stderr, and ends with 3. */
const echo: SessionHandler = async ({ stdin, stdout, stderr }) => {
  for await (const piece of stdin ?? []) stdout?.write(piece);
  stderr?.write('echoed');
  return 3;
};

interface Streams {
  readonly client: SpdyClient;
  readonly error: ClientStream;
  readonly stdin: ClientStream;
  readonly stdout: ClientStream;
  readonly stderr: ClientStream;
}

async function bySpdy(url: string, names: readonly string[], protocol = 'v4.channel.k8s.io'): Promise<Streams> {
  const client = await SpdyClient.connect(url, { protocols: [protocol] });
  const streams: Record<string, unknown> = { client };
  for (const name of names) streams[name] = await client.open({ streamType: name });
  return streams as unknown as Streams;
}

/** A client of WebSocket that collects what comes on each channel. */
class WsClient {
  readonly ws: WebSocket;
  readonly closed: Promise<number>;
  readonly channels = new Map<number, Buffer[]>();
  messages = 0;
  readonly #base64: boolean;

  constructor(url: string, protocol?: string) {
    this.ws = new WebSocket(url, protocol === undefined ? [] : [protocol]);
    this.#base64 = protocol?.includes('base64') ?? false;
    this.closed = new Promise((resolve) => this.ws.once('close', resolve));
    this.ws.on('error', () => {});
    this.ws.on('message', (message: Buffer) => {
      this.messages += 1;
      const [first = 0] = message;
      const channel = this.#base64 ? first - 48 : first;
      const bytes = this.#base64 ? Buffer.from(message.toString('latin1', 1), 'base64') : message.subarray(1);
      this.channels.set(channel, [...(this.channels.get(channel) ?? []), bytes]);
    });
  }

  async opened(): Promise<this> {
    await once(this.ws, 'open');
    return this;
  }

  send(channel: number, bytes: string | Buffer): void {
    if (this.#base64) this.ws.send(`${channel}${Buffer.from(bytes).toString('base64')}`);
    else this.ws.send(Buffer.concat([Buffer.from([channel]), Buffer.from(bytes)]));
  }

  text(channel: number): string {
    return Buffer.concat(this.channels.get(channel) ?? []).toString();
  }
}

const FAILED_3 = expect.objectContaining({ status: 'Failure', reason: 'NonZeroExitCode', details: { causes: [{ reason: 'ExitCode', message: '3' }] } });

test.each([
  ['v4.channel.k8s.io', FAILED_3],
  ['v3.channel.k8s.io', undefined],
  ['v2.channel.k8s.io', undefined],
  ['channel.k8s.io', undefined],
])('an exec by SPDY, %s: three streams, the half-close of stdin, and the exit code', async (protocol, status) => {
  const { client, error, stdin, stdout, stderr } = await bySpdy((await serve()).exec(ALL, echo), ['error', 'stdin', 'stdout', 'stderr'], protocol);
  expect(client.protocol).toBe(protocol);
  await stdin.write('hello ');
  await stdin.write('there');
  stdin.end();
  expect(await stdout.text()).toBe('hello there');
  expect(await stderr.text()).toBe('echoed');
  const ending = await error.text();
  if (status === undefined) expect(ending).toBe('command terminated with exit code 3');
  else expect(JSON.parse(ending)).toEqual(status);
  await client.closed;
  expect(client.goAway).toBe(0);
});

test.each([
  ['v5.channel.k8s.io', FAILED_3],
  ['v4.channel.k8s.io', FAILED_3],
  ['v4.base64.channel.k8s.io', FAILED_3],
  ['base64.channel.k8s.io', undefined],
  ['channel.k8s.io', undefined],
  [undefined, undefined],
])('an exec by WebSocket, %s: all channels, and the exit code', async (protocol, status) => {
  const handler: SessionHandler = async ({ stdin, stdout, stderr }) => {
    for await (const piece of stdin ?? []) {
      stdout?.write(piece);
      if (String(piece).endsWith('!')) break; // only v5 can end stdin
    }
    stderr?.write('done');
    return 3;
  };
  const client = await new WsClient((await serve()).exec(ALL, handler), protocol).opened();
  expect(client.ws.protocol).toBe(protocol ?? '');
  await until('the empty first message', () => client.channels.has(1));
  expect(client.text(1)).toBe('');
  client.send(7, 'a channel that is none');
  client.send(0, protocol === 'v5.channel.k8s.io' ? 'hello' : 'hello!');
  if (protocol === 'v5.channel.k8s.io') client.send(255, Buffer.from([0]));
  expect(await client.closed).toBe(1000);
  expect(client.text(1)).toMatch(/^hello!?$/);
  expect(client.text(2)).toBe('done');
  if (status === undefined) expect(client.text(3)).toBe('command terminated with exit code 3');
  else expect(JSON.parse(client.text(3))).toEqual(status);
});

test('success says so in v4, and nothing in older protocols', async () => {
  const server = await serve();
  const one = await bySpdy(
    server.exec(PIPE, async () => 0),
    ['error', 'stdin', 'stdout'],
  );
  expect(JSON.parse(await one.error.text())).toEqual({ metadata: {}, status: 'Success' });
  const old = await bySpdy(
    server.attach(PIPE, async () => undefined),
    ['error', 'stdin', 'stdout'],
    'channel.k8s.io',
  );
  expect(await old.error.text()).toBe('');
});

test('what a handler throws is what the client is told', async () => {
  const server = await serve();
  const handler: SessionHandler = async () => {
    throw new CriError('failedPrecondition', 'container 3f2a is not running');
  };
  const { error } = await bySpdy(server.exec(PIPE, handler), ['error', 'stdin', 'stdout']);
  expect(JSON.parse(await error.text())).toEqual({
    metadata: {},
    status: 'Failure',
    message: 'container 3f2a is not running',
    reason: 'Conflict',
    code: 409,
  });
  const client = await new WsClient(server.exec(PIPE, handler), 'channel.k8s.io').opened();
  await client.closed;
  expect(client.text(3)).toBe('container 3f2a is not running');
});

test('a terminal has no stderr, and its sizes come before the first byte and later', async () => {
  const server = await serve();
  const handler: SessionHandler = async ({ stderr, stdin, stdout, terminal }) => {
    const seen: string[] = [String(stderr)];
    terminal?.follow(({ width, height }) => seen.push(`${width}x${height}`));
    await once(stdin ?? process.stdin, 'data');
    stdout?.write(seen.join(' '));
    return 0;
  };
  const tty = { stdin: true, stdout: true, stderr: false, tty: true };
  const client = await SpdyClient.connect(server.exec(tty, handler), { protocols: ['v4.channel.k8s.io'] });
  await client.open({ streamType: 'error' });
  const resize = await client.open({ streamType: 'resize' });
  await resize.write('{"Width":80,"Height":24}\n');
  const stdin = await client.open({ streamType: 'stdin' });
  const stdout = await client.open({ streamType: 'stdout' });
  await stdout.accepted;
  await resize.write('{"Width":132,"Height":50}\n');
  await stdin.write('x');
  expect(await stdout.text()).toBe('undefined 80x24 132x50');

  const ws = await new WsClient(server.exec(tty, handler), 'v5.channel.k8s.io').opened();
  ws.send(4, '{"Width":80,"Height":24}');
  ws.send(0, 'x');
  await ws.closed;
  expect(ws.text(1)).toBe('undefined 80x24');
});

test('a token is good for one request of its kind, even one that is refused', async () => {
  const server = await serve();
  const protocols = ['v4.channel.k8s.io'];
  const refusal = (url: string, options = {}) => SpdyClient.connect(url, { protocols, ...options }).catch((err: unknown) => err);
  const url = server.exec(PIPE, echo);
  (await SpdyClient.connect(url, { protocols })).destroy();
  expect(await refusal(url)).toMatchObject({ code: 404, body: '404 page not found\n' });

  const other = server.exec(PIPE, echo);
  expect(await refusal(other.replace('/exec/', '/attach/'))).toMatchObject({ code: 404 });
  expect(await refusal(other)).toMatchObject({ code: 404 });

  const plain = server.exec(PIPE, echo);
  const answer = await fetch(plain);
  expect([answer.status, await answer.text()]).toEqual([400, 'unable to upgrade: missing upgrade headers in request\n']);
  expect(await refusal(plain)).toMatchObject({ code: 404 });
  expect(await refusal(server.exec(PIPE, echo), { headers: { Upgrade: 'h2c' } })).toMatchObject({ code: 400 });
  expect(await refusal(server.exec(PIPE, echo), { protocols: [] })).toMatchObject({
    code: 400,
    body: 'unable to upgrade: X-Stream-Protocol-Version is required\n',
  });
  const refused = await refusal(server.exec(PIPE, echo), { protocols: ['v9.channel.k8s.io'] });
  expect(refused).toBeInstanceOf(Refused);
  expect(refused).toMatchObject({ code: 403, headers: { 'x-accepted-stream-protocol-versions': expect.stringContaining('v4.channel.k8s.io') } });
  expect(await refusal(`${server.baseUrl}/`)).toMatchObject({ code: 404 });
});

test('1,000 URLs may wait for their clients', async () => {
  const server = await serve();
  for (let i = 0; i < 1_000; i += 1) server.exec(PIPE, echo);
  expect(() => server.portForward('p', [], async () => Promise.reject())).toThrow(expect.objectContaining({ kind: 'resourceExhausted' }));
});

test.each([
  ['0.0.0.0', /^http:\/\/127\.0\.0\.1:\d+$/],
  ['::', /^http:\/\/\[::1\]:\d+$/],
  ['::1', /^http:\/\/\[::1\]:\d+$/],
])('listening on %s, its URLs are such as the kubelet can use', async (address, expected) => {
  const server = await serve({ address });
  expect(server.baseUrl).toMatch(expected);
  const { error } = await bySpdy(
    server.exec(PIPE, async () => 0),
    ['error', 'stdin', 'stdout'],
  );
  expect(await error.text()).toContain('Success');
});

test('an address that is in use is named', async () => {
  const port = Number(new URL((await serve()).baseUrl).port);
  await expect(serve({ port })).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringContaining(`serve streams on 127.0.0.1:${port}: `) });
});

const CHUNK = Buffer.alloc(64 * 1024, 'x');
const CHUNKS = 1_600;

/** Writes 100 MB as fast as it is let; counts what has been taken. */
function flood(): { handler: SessionHandler; taken: () => number } {
  let taken = 0;
  const handler: SessionHandler = async ({ stdout, signal }) => {
    for (let i = 0; i < CHUNKS && !signal.aborted; i += 1) {
      taken += CHUNK.length;
      if (stdout?.write(CHUNK) === false) await Promise.race([once(stdout, 'drain'), once(signal, 'abort')]);
    }
    return 0;
  };
  return { handler, taken: () => taken };
}

/** What sockets' buffers of both kernels and both processes hold at most. */
const IN_FLIGHT = 16 * 1024 * 1024;
const digest = (update: (hash: ReturnType<typeof createHash>) => void): string => {
  const hash = createHash('sha256');
  update(hash);
  return hash.digest('hex');
};
const FLOOD_DIGEST = digest((hash) => {
  for (let i = 0; i < CHUNKS; i += 1) hash.update(CHUNK);
});

test('a client that does not read holds back the output, and gets all of it when it does: SPDY', async () => {
  const { handler, taken } = flood();
  const { client, stdout, error } = await bySpdy((await serve()).exec({ ...PIPE, stdin: false }, handler), ['error', 'stdout']);
  client.socket.pause();
  await until('the output to stop', async () => {
    const before = taken();
    await sleep(200);
    return before > 0 && taken() === before;
  });
  expect(taken()).toBeLessThan(IN_FLIGHT);
  client.socket.resume();
  const hash = createHash('sha256');
  for await (const piece of stdout.received) hash.update(piece as Buffer);
  expect(hash.digest('hex')).toBe(FLOOD_DIGEST);
  expect(await error.text()).toContain('Success');
});

test('a client that does not read holds back the output, and gets all of it when it does: WebSocket', async () => {
  const { handler, taken } = flood();
  const ws = new WebSocket((await serve()).exec({ ...PIPE, stdin: false }, handler), ['v5.channel.k8s.io']);
  const hash = createHash('sha256');
  ws.on('message', (message: Buffer) => message[0] === 1 && hash.update(message.subarray(1)));
  await once(ws, 'open');
  ws.pause();
  await until('the output to stop', async () => {
    const before = taken();
    await sleep(200);
    return before > 0 && taken() === before;
  });
  expect(taken()).toBeLessThan(IN_FLIGHT);
  ws.resume();
  await once(ws, 'close');
  expect(hash.digest('hex')).toBe(FLOOD_DIGEST);
});

/** Reads nothing until it is let, then all. */
function reluctant(): { handler: SessionHandler; begin: () => void; length: () => number } {
  const { promise, resolve } = Promise.withResolvers<void>();
  let length = 0;
  const handler: SessionHandler = async ({ stdin, signal }) => {
    await Promise.race([promise, once(signal, 'abort')]);
    for await (const piece of stdin ?? []) length += (piece as Buffer).length;
    return 0;
  };
  return { handler, begin: resolve, length: () => length };
}

test('a command that does not read holds back the client, which can send all when it does: SPDY', async () => {
  const { handler, begin, length } = reluctant();
  const { stdin, error } = await bySpdy((await serve()).exec(PIPE, handler), ['error', 'stdin', 'stdout']);
  let sent = 0;
  const sending = (async () => {
    for (let i = 0; i < CHUNKS; i += 1) {
      sent += CHUNK.length;
      await stdin.write(CHUNK);
    }
    stdin.end();
  })();
  await until('the client to be held back', async () => {
    const before = sent;
    await sleep(200);
    return sent === before;
  });
  expect(sent).toBeLessThan(IN_FLIGHT);
  begin();
  await sending;
  expect(await error.text()).toContain('Success');
  expect(length()).toBe(CHUNKS * CHUNK.length);
});

test('a command that does not read holds back the client, which can send all when it does: WebSocket', async () => {
  const { handler, begin, length } = reluctant();
  const client = await new WsClient((await serve()).exec(PIPE, handler), 'v5.channel.k8s.io').opened();
  for (let i = 0; i < CHUNKS; i += 1) client.send(0, CHUNK);
  client.send(255, Buffer.from([0]));
  await until('the client to be held back', async () => {
    const before = client.ws.bufferedAmount;
    await sleep(200);
    return client.ws.bufferedAmount === before;
  });
  expect(client.ws.bufferedAmount).toBeGreaterThan(CHUNKS * CHUNK.length - IN_FLIGHT);
  begin();
  await client.closed;
  expect(length()).toBe(CHUNKS * CHUNK.length);
});

/** Waits for the session's end and notes why. */
function waiting(): { handler: SessionHandler; reason: Promise<CriError>; session: Promise<RemoteSession> } {
  const ended = Promise.withResolvers<CriError>();
  const begun = Promise.withResolvers<RemoteSession>();
  const handler: SessionHandler = async (session) => {
    begun.resolve(session);
    if (!session.signal.aborted) await once(session.signal, 'abort');
    ended.resolve(session.signal.reason);
    throw session.signal.reason;
  };
  return { handler, reason: ended.promise, session: begun.promise };
}

test('a client that goes ends its session, even while its input is not read', async () => {
  const server = await serve();
  const one = waiting();
  const { client, stdin } = await bySpdy(server.exec(PIPE, one.handler), ['error', 'stdin', 'stdout']);
  for (let i = 0; i < 10; i += 1) void stdin.write(CHUNK);
  await one.session;
  await sleep(100);
  client.destroy();
  expect(await one.reason).toMatchObject({ kind: 'cancelled' });
  const session = await one.session;
  expect([session.stdin?.destroyed, session.stdout?.destroyed]).toEqual([true, true]);

  const two = waiting();
  const ws = await new WsClient(server.exec(PIPE, two.handler), 'v5.channel.k8s.io').opened();
  for (let i = 0; i < 10; i += 1) ws.send(0, CHUNK);
  await sleep(100);
  ws.ws.terminate();
  expect(await two.reason).toMatchObject({ kind: 'cancelled' });
});

test('a client that resets a stream ends its session', async () => {
  const one = waiting();
  const { stdout, client } = await bySpdy((await serve()).exec(PIPE, one.handler), ['error', 'stdin', 'stdout']);
  await one.session;
  stdout.reset();
  expect(await one.reason).toMatchObject({ kind: 'cancelled' });
  client.destroy();
});

test('a session in which nothing passes is ended after the idle timeout, and told so; pings do not count', async () => {
  const server = await serve({ idleTimeoutMs: 1_000 });
  const one = waiting();
  const { client, error } = await bySpdy(server.exec(PIPE, one.handler), ['error', 'stdin', 'stdout']);
  const pinging = setInterval(() => client.ping(), 100);
  const message = 'streaming: nothing was sent or received for 1 s';
  expect(JSON.parse(await error.text())).toMatchObject({ status: 'Failure', reason: 'Timeout', message });
  clearInterval(pinging);
  expect(client.pongs).toBeGreaterThan(0);
  expect(await one.reason).toMatchObject({ kind: 'deadlineExceeded' });
  await client.closed;

  const ws = await new WsClient(server.exec(PIPE, waiting().handler), 'v4.channel.k8s.io').opened();
  await ws.closed;
  expect(JSON.parse(ws.text(3))).toMatchObject({ message });
});

test('a client that does not open its streams is told which are missing', async () => {
  const server = await serve({ creationTimeoutMs: 300 });
  const { client, error } = await bySpdy(server.exec(ALL, echo), ['error', 'stdin']);
  expect(JSON.parse(await error.text())).toMatchObject({ message: 'streaming: the client did not open stdout, stderr within 0.3 s' });
  await client.closed;
  const forward = await SpdyClient.connect(
    server.portForward('p', [], () => Promise.reject(new Error('not to be asked'))),
    { protocols: ['portforward.k8s.io'] },
  );
  const half = await forward.open({ streamType: 'error', port: '80', requestID: '1' });
  expect(await half.text()).toBe('forward to port 80: the data stream was not opened within 0.3 s');
  forward.destroy();
});

test('streams that are not asked for, or asked for twice, are refused', async () => {
  const { client, stdin } = await bySpdy((await serve()).exec(PIPE, echo), ['error', 'stdin']);
  await stdin.accepted;
  for (const streamType of ['stdin', 'stderr', 'resize', 'data', '']) await expect((await client.open({ streamType })).accepted).rejects.toThrow('was reset');
  const stdout = await client.open({ streamType: 'stdout' });
  stdin.end();
  expect(await stdout.text()).toBe('');
  const forward = await SpdyClient.connect(
    (await serve()).portForward('p', [], () => Promise.reject(new Error('not to be asked'))),
    { protocols: ['portforward.k8s.io'] },
  );
  for (const headers of [{ streamType: 'stdin', port: '80' }, { streamType: 'data' }, { streamType: 'data', port: '0' }, { streamType: 'data', port: '1e3' }]) {
    await expect((await forward.open(headers as Record<string, string>)).accepted).rejects.toThrow('was reset');
  }
  forward.destroy();
});

test('the end of the server tells every client why, and waits for the handlers', async () => {
  const server = await serve();
  let settled = 0;
  const handler: SessionHandler = async ({ signal }) => {
    await once(signal, 'abort');
    await sleep(100);
    settled += 1;
    throw signal.reason;
  };
  const one = await bySpdy(server.exec(PIPE, handler), ['error', 'stdin', 'stdout']);
  await one.stdout.accepted;
  const two = await new WsClient(server.exec(PIPE, handler), 'v5.channel.k8s.io').opened();
  await until('the session', () => two.channels.has(1));
  const waits = await bySpdy(server.exec(PIPE, handler), ['error', 'stdin']);
  const forward = await SpdyClient.connect(
    server.portForward('p', [], () => Promise.reject(new Error('no'))),
    { protocols: ['portforward.k8s.io'] },
  );
  await server[Symbol.asyncDispose]();
  expect(settled).toBe(2);
  const told = { status: 'Failure', reason: 'ServiceUnavailable', message: 'streaming: berth is stopping' };
  expect(JSON.parse(await one.error.text())).toMatchObject(told);
  expect(JSON.parse(two.text(3))).toMatchObject(told);
  expect(JSON.parse(await waits.error.text())).toMatchObject(told);
  await Promise.all([one.client.closed, two.closed, waits.client.closed, forward.closed]);
});

/** The session of one client is cut off; another one's goes on. */
async function expectCutOff(misbehave: (client: SpdyClient) => void | Promise<void>): Promise<void> {
  const server = await serve();
  const bystander = await bySpdy(server.exec(PIPE, echo), ['error', 'stdin', 'stdout']);
  const bad = waiting();
  const { client } = await bySpdy(server.exec(PIPE, bad.handler), ['error', 'stdin', 'stdout']);
  await bad.session;
  await misbehave(client);
  expect(await bad.reason).toMatchObject({ kind: 'cancelled' });
  client.socket.resume();
  await client.closed;
  await bystander.stdin.write('still here');
  bystander.stdin.end();
  expect(await bystander.stdout.text()).toBe('still here');
}

test.each<[string, (client: SpdyClient) => void | Promise<void>]>([
  ['frames of another protocol', ({ socket }) => void socket.write('\x80GET / HTTP/1.1\r\n\r\n')],
  ['headers that are none', ({ socket }) => void socket.write(controlFrame(FRAME.SYN_STREAM, Buffer.alloc(20, 0xff)))],
  ['a control frame without end', ({ socket }) => void socket.write(Buffer.from('8003000100ffffff', 'hex'))],
  [
    'a stream number that was used',
    async (client) => {
      client.socket.write(await client.synStream(1, { streamType: 'error' }));
    },
  ],
  [
    'pings whose answers are not read',
    async ({ socket }) => {
      socket.pause();
      const pings = Buffer.concat(Array.from({ length: 10_000 }, () => numbersFrame(FRAME.PING, 1)));
      for (let i = 0; i < 300 && !socket.destroyed; i += 1)
        if (!socket.write(pings))
          await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), new Promise((resolve) => socket.once('close', resolve)), sleep(200)]);
    },
  ],
])('a client that sends %s is cut off, and nobody else is', (_what, misbehave) => expectCutOff(misbehave));

test('of 10,000 streams 1,000 are taken and the others refused, and the session goes on', async () => {
  const server = await serve();
  const client = await SpdyClient.connect(
    server.portForward('p', [], () => Promise.reject(new Error('closed port'))),
    { protocols: ['portforward.k8s.io'] },
  );
  const streams: ClientStream[] = [];
  for (let i = 0; i < 10_000; i += 1) streams.push(await client.open({ streamType: 'data', port: '80', requestID: String(i) }));
  const results = await Promise.allSettled(streams.map(({ accepted }) => accepted));
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1_000);
  for (const stream of streams.slice(0, 10)) stream.reset();
  const error = await client.open({ streamType: 'error', port: '80', requestID: 'last' });
  await client.open({ streamType: 'data', port: '80', requestID: 'last' });
  expect(await error.text()).toBe('forward to port 80: closed port');
  client.destroy();
});

test('port-forward the old way, by WebSocket: the ports of the RPC, each announced on its two channels', async () => {
  const { createServer } = await import('node:net');
  const pod = createServer((socket) => socket.end('from the pod'));
  await new Promise<void>((resolve) => pod.listen(0, '127.0.0.1', resolve));
  const address = pod.address();
  if (address === null || typeof address === 'string') throw new Error('no address');
  const server = await serve();
  const dial: PortConnector = async (port, onread) => {
    if (port === 81) throw new CriError('unavailable', 'nothing answers');
    return connect({ port: address.port, host: '127.0.0.1', allowHalfOpen: true, onread });
  };
  const client = await new WsClient(server.portForward('p', [80, 81], dial), 'v4.channel.k8s.io').opened();
  await client.closed;
  pod.close();
  expect(Object.fromEntries([...client.channels].map(([channel, parts]) => [channel, Buffer.concat(parts).toString('latin1')]))).toEqual({
    0: '\x50\x00from the pod',
    1: '\x50\x00',
    2: '\x51\x00',
    3: '\x51\x00forward to port 81: nothing answers',
  });
});

test('a request whose headers do not end is dropped', async () => {
  const server = await serve();
  const socket = connect(Number(new URL(server.baseUrl).port), '127.0.0.1');
  socket.write(`POST /exec/x HTTP/1.1\r\nX: ${'x'.repeat(20_000)}`);
  expect(await text(socket)).toMatch(/^HTTP\/1\.1 431 /);
});
