import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { type AddressInfo, connect, Server } from 'node:net';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { CriError } from '#base/errors.ts';
import { silentLog } from '#base/log.ts';
import type { PortConnector, SessionHandler } from '../../../../server/stream/session.ts';
import { type ClientStream, Refused, SpdyClient } from '../../../fakes/spdy-client.ts';
import { WsClient } from '../../../fakes/ws-client.ts';
import { until } from '../../../support/wait.ts';
import { ALL, bySpdy, echo, FAILED_3, PIPE, serve } from './served.ts';

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

test('connections that the kernel cannot hand over are told of, and the server goes on', async () => {
  const told: unknown[] = [];
  const log = { ...silentLog, warn: ({ err }: { err: unknown }) => void told.push(err) } as unknown as typeof silentLog;
  const server = await serve({ log });
  const { port } = new URL(server.baseUrl);
  const handles = (process as unknown as { _getActiveHandles(): unknown[] })._getActiveHandles();
  const listener = handles.find((handle): handle is Server => handle instanceof Server && (handle.address() as AddressInfo | null)?.port === Number(port));
  const failures = ['EMFILE', 'ENOBUFS'].map((code) => Object.assign(new Error(`accept ${code}`), { code }));
  for (const failure of failures) listener?.emit('error', failure); // as Node does when accept(2) fails
  expect(told).toEqual(failures);
  const { error } = await bySpdy(
    server.exec(PIPE, async () => 0),
    ['error', 'stdin', 'stdout'],
  );
  expect(await error.text()).toContain('Success');
});

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

test('port-forward the old way is refused for more ports than there are channels', async () => {
  const server = await serve();
  const ports = Array.from({ length: 129 }, (_, index) => index + 1);
  const ws = new WebSocket(
    server.portForward('p', ports, () => Promise.reject(new Error('not to be asked'))),
    ['v4.channel.k8s.io'],
  );
  const [, response] = (await once(ws, 'unexpected-response')) as [unknown, IncomingMessage];
  expect([response.statusCode, await text(response)]).toEqual([400, 'unable to upgrade: port: 129 ports are more than the 128 that have channels\n']);
});

test('a request whose headers do not end is dropped', async () => {
  const server = await serve();
  const socket = connect(Number(new URL(server.baseUrl).port), '127.0.0.1');
  socket.write(`POST /exec/x HTTP/1.1\r\nX: ${'x'.repeat(20_000)}`);
  expect(await text(socket)).toMatch(/^HTTP\/1\.1 431 /);
});
