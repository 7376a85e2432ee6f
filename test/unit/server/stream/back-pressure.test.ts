import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { SessionHandler } from '../../../../server/stream/session.ts';
import { WsClient } from '../../../fakes/ws-client.ts';
import { until } from '../../../support/wait.ts';
import { bySpdy, PIPE, serve } from './served.ts';

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
