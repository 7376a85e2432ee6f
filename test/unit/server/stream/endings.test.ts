import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { CriError } from '#base/errors.ts';
import type { RemoteSession, SessionHandler } from '../../../../server/stream/session.ts';
import { controlFrame, FRAME, numbersFrame } from '../../../../server/stream/spdy-frame.ts';
import { SpdyClient } from '../../../fakes/spdy-client.ts';
import { WsClient } from '../../../fakes/ws-client.ts';
import { until } from '../../../support/wait.ts';
import { ALL, bySpdy, echo, PIPE, serve } from './served.ts';

const CHUNK = Buffer.alloc(64 * 1024, 'x');

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
  await client.closed; // there is nothing left to be said
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
