import { Writable } from 'node:stream';
import type { ServerWritableStream } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { sender } from '../../../server/send.ts';

/** A stream like grpc-js's: `taken` is what went out, and nothing goes out while it is stuck. */
function fakeStream({ stuck }: { readonly stuck: boolean }): { stream: ServerWritableStream<unknown, string>; taken: string[]; unstick(): void } {
  const taken: string[] = [];
  const gate = Promise.withResolvers<void>();
  if (!stuck) gate.resolve();
  const stream = new Writable({
    objectMode: true,
    highWaterMark: 2,
    write(chunk, _encoding, done) {
      void gate.promise.then(() => {
        taken.push(chunk);
        done();
      });
    },
  });
  return { stream: stream as unknown as ServerWritableStream<unknown, string>, taken, unstick: () => gate.resolve() };
}

function options(stallTimeoutMs: number): {
  controller: AbortController;
  rpc: string;
  signal: AbortSignal;
  abort(reason: Error): void;
  stallTimeoutMs: number;
} {
  const controller = new AbortController();
  return { controller, rpc: 'GetContainerEvents', signal: controller.signal, abort: (reason) => controller.abort(reason), stallTimeoutMs };
}

test('send() holds the caller back while the stream is full, and keeps the order', async () => {
  const { stream, taken, unstick } = fakeStream({ stuck: true });
  const send = sender(stream, options(60_000));
  let resolved = 0;
  const sent = ['a', 'b', 'c', 'd', 'e'].map((message) => send(message).then(() => (resolved += 1)));
  await new Promise(setImmediate);
  expect(resolved).toBe(1);
  unstick();
  await Promise.all(sent);
  expect(taken).toEqual(['a', 'b', 'c', 'd', 'e']);
});

test('send() cuts off a client that takes nothing for too long', async () => {
  const { stream } = fakeStream({ stuck: true });
  const given = options(5);
  const send = sender(stream, given);
  await send('a');
  await expect(send('b')).rejects.toMatchObject({ kind: 'resourceExhausted', message: 'GetContainerEvents: the client took no message for 5 ms' });
  expect(given.signal.aborted).toBe(true);
});

test('send() rejects with the reason, waiting or not, when the client leaves', async () => {
  const { stream } = fakeStream({ stuck: true });
  const given = options(60_000);
  const send = sender(stream, given);
  await send('a');
  const waiting = [send('b'), send('c')];
  given.controller.abort(new Error('gone'));
  expect(await Promise.allSettled(waiting)).toMatchObject([{ reason: { message: 'gone' } }, { reason: { message: 'gone' } }]);
  await expect(send('d')).rejects.toThrow('gone');
});
