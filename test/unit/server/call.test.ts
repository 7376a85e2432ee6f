import { once } from 'node:events';
import { connect, constants } from 'node:http2';
import { createConnection } from 'node:net';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { sleep } from '#base/abort.ts';
import { CriError } from '#base/errors.ts';
import type { Call } from '../../../server/call.ts';
import { serveApi } from '../../fakes/api.ts';

const unhandled: unknown[] = [];
const onUnhandled = (reason: unknown): void => void unhandled.push(reason);
beforeEach(() => void process.on('unhandledRejection', onUnhandled));
afterEach(() => {
  process.off('unhandledRejection', onUnhandled);
  expect(unhandled.splice(0)).toEqual([]);
});

const untilAborted = ({ signal }: Call): Promise<never> => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

test('unary() answers, logs what changes at info and what is polled at debug', async () => {
  await using api = await serveApi({ Version: async ({ version }) => ({ version }), StopContainer: async () => ({}) });
  expect(await api.call('Version', { version: '0.1.0' })).toEqual({ version: '0.1.0', runtime_name: '', runtime_version: '', runtime_api_version: '' });
  await api.call('StopContainer');
  expect(api.lines).toMatchObject([
    { level: 'debug', rpc: 'Version', msg: 'Served RPC', durationMs: expect.any(Number) },
    { level: 'info', rpc: 'StopContainer', msg: 'Served RPC' },
  ]);
  expect(api.observed).toEqual(['Version OK', 'StopContainer OK']);
});

test.each([
  ['warn', new CriError('notFound', 'find container 1: no such container'), status.NOT_FOUND, 'NOT_FOUND'],
  ['error', new TypeError('x is not a function'), status.UNKNOWN, 'UNKNOWN'],
] as const)('unary() logs a failure once, at %s, and answers it', async (level, err, code, name) => {
  await using api = await serveApi({
    StopContainer: () => {
      throw err; // not even a promise
    },
  });
  await expect(api.call('StopContainer')).rejects.toMatchObject({ code, details: err.message });
  expect(api.lines).toMatchObject([{ level, rpc: 'StopContainer', msg: 'Failed RPC', err: { message: err.message } }]);
  expect(api.observed).toEqual([`StopContainer ${name}`]);
});

test('unary() never logs a request', async () => {
  await using api = await serveApi({ PullImage: () => Promise.reject(new CriError('notFound', 'no such image')) });
  await expect(api.call('PullImage', { image: { image: 'x' }, auth: { password: 'hush-hush' } })).rejects.toThrow();
  expect(JSON.stringify(api.lines)).not.toContain('hush-hush');
});

test('unary() aborts the signal with "cancelled" when the client leaves', async () => {
  const begun = Promise.withResolvers<void>();
  const reason = Promise.withResolvers<unknown>();
  await using api = await serveApi({
    async StopContainer(_request, call) {
      begun.resolve();
      return untilAborted(call).catch((err: unknown) => {
        reason.resolve(err);
        throw err;
      });
    },
  });
  const { cancel, answer } = api.start('StopContainer');
  await begun.promise;
  cancel();
  await expect(answer).rejects.toMatchObject({ code: status.CANCELLED });
  expect(await reason.promise).toMatchObject({ kind: 'cancelled', message: 'StopContainer: the client cancelled the call' });
  await vi.waitFor(() => expect(api.lines).toMatchObject([{ level: 'info', msg: 'Ended RPC early', stage: 'the call' }]));
});

test('unary() leaves the signal alone once it has answered', async () => {
  const signals: AbortSignal[] = [];
  await using api = await serveApi({
    async Version(_request, { signal }) {
      signals.push(signal);
      return {};
    },
  });
  await api.call('Version');
  await api.call('Version', {}, { deadline: Date.now() + 60_000 });
  await sleep(20); // grpc-js emits 'cancelled' when it closes the stream
  expect(signals.map((signal) => signal.aborted)).toEqual([false, false]);
});

test('unary() names the slow stage before the deadline even when the handler does not listen', async () => {
  const gate = Promise.withResolvers<void>();
  const seen: (number | undefined)[] = [];
  await using api = await serveApi({
    async RunPodSandbox(_request, { stage, deadline }) {
      seen.push(deadline);
      stage.name = 'CNI ADD by bridge';
      await gate.promise;
      throw new Error('too late');
    },
  });
  const deadline = Date.now() + 2_000; // the answer comes a twentieth of it before
  await expect(api.call('RunPodSandbox', {}, { deadline })).rejects.toMatchObject({
    code: status.DEADLINE_EXCEEDED,
    details: 'RunPodSandbox: CNI ADD by bridge did not finish within the deadline',
  });
  expect(Math.abs((seen[0] ?? 0) - deadline)).toBeLessThan(200);
  expect(api.services.running).toBe(1); // the work goes on
  gate.resolve();
  await api.services.drain();
  expect(api.lines.map(({ level, msg }) => [level, msg])).toEqual([
    ['warn', 'Failed RPC'],
    ['debug', 'Failed RPC after it was answered'],
  ]);
  expect(api.observed).toEqual(['RunPodSandbox DEADLINE_EXCEEDED']);
});

test('unary() gives no deadline when the client has none', async () => {
  const seen: unknown[] = [];
  await using api = await serveApi({
    async PullImage(_request, { deadline }) {
      seen.push(deadline);
      return {};
    },
  });
  await api.call('PullImage');
  expect(seen).toEqual([undefined]);
});

test('serverStream() sends in order, each message once, and ends', async () => {
  await using api = await serveApi({
    async StreamImages(_request, _call, send) {
      await Promise.all(['a', 'b', 'c'].map((id) => send({ images: [{ id }] })));
    },
  });
  const ids: unknown[] = [];
  for await (const { images } of api.stream('StreamImages')) ids.push(...images.map((image: { id: string }) => image.id));
  expect(ids).toEqual(['a', 'b', 'c']);
  expect(api.observed).toEqual(['StreamImages OK']);
});

test('serverStream() sends what came before a failure, then the failure', async () => {
  await using api = await serveApi({
    async StreamImages(_request, _call, send) {
      await send({ images: [{ id: 'a' }] });
      throw new CriError('failedPrecondition', 'the store is gone');
    },
  });
  const messages: unknown[] = [];
  const failed = Promise.withResolvers<unknown>();
  api
    .stream('StreamImages')
    .on('data', (message) => messages.push(message))
    .on('error', failed.resolve);
  expect(await failed.promise).toMatchObject({ code: status.FAILED_PRECONDITION, details: 'the store is gone' });
  expect(messages).toHaveLength(1);
});

test('serverStream() ends the handler when the client leaves', async () => {
  const ended = Promise.withResolvers<unknown>();
  await using api = await serveApi({
    async GetContainerEvents(_request, { signal }, send) {
      try {
        for (;;) {
          await send({ container_id: '1' });
          await sleep(1, signal);
        }
      } catch (err) {
        ended.resolve(err);
        throw err;
      }
    },
  });
  const events = api.stream('GetContainerEvents');
  events.on('error', () => {});
  await once(events, 'data');
  events.cancel();
  expect(await ended.promise).toMatchObject({ kind: 'cancelled' });
  await vi.waitFor(() => expect(api.lines).toMatchObject([{ level: 'info', msg: 'Ended RPC early' }]));
});

/** Calls GetContainerEvents and never opens its window again: what an HTTP/2 stream looks like whose reader hangs. */
function deafClient(path: string): { readonly reset: Promise<number | undefined>; close(): void } {
  const session = connect('http://localhost', { createConnection: () => createConnection(path), settings: { initialWindowSize: 1024 } });
  const stream = session.request({
    ':method': 'POST',
    ':path': '/runtime.v1.RuntimeService/GetContainerEvents',
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  session.on('error', () => {});
  stream.on('error', () => {});
  stream.pause();
  stream.end(Buffer.alloc(5));
  const reset = new Promise<number | undefined>((resolve) => stream.on('close', () => resolve(stream.rstCode)));
  return { reset, close: () => session.destroy() };
}

test('send() waits for a client that does not read, and cuts it off when too much waits', async () => {
  let resolved = 0;
  const ended = Promise.withResolvers<unknown>();
  await using api = await serveApi({
    async GetContainerEvents(_request, { signal }, send) {
      const message = { container_id: 'x'.repeat(512) };
      for (let count = 0; count < 1000 && !signal.aborted; count += 1) {
        send(message).then(
          () => (resolved += 1),
          () => {},
        );
        await sleep(0);
      }
      ended.resolve(signal.reason);
      signal.throwIfAborted();
    },
  });
  const client = deafClient(api.path);
  expect(await ended.promise).toMatchObject({ kind: 'resourceExhausted', message: 'GetContainerEvents: the client left 64 messages unread' });
  expect(resolved).toBeLessThan(100);
  expect(await client.reset).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  client.close();
  expect(api.lines).toMatchObject([{ level: 'warn', msg: 'Failed RPC' }]);
});
