import { Writable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { attachSession } from '../../../../server/container/attach.ts';
import type { Viewers } from '../../../../server/container/viewers.ts';

type Hear = Parameters<Viewers['join']>[2];

test('attachSession() counts what each small piece of output costs a client that takes nothing', async () => {
  const { promise: joined, resolve } = Promise.withResolvers<Hear>();
  const attached = { closed: new Promise(() => {}) };
  const viewers = {
    async join(_id: string, _socket: string, hear: Hear) {
      resolve(hear);
      return { attached, [Symbol.dispose]: () => {} };
    },
  } as unknown as Viewers;
  const stdout = new Writable({ highWaterMark: 192 * 1024, write: () => {} });
  const target = { id: 'c0ffee', bundle: '/nonexistent', stdin: true, stdinOnce: true, terminalOf: undefined, viewers };
  const session = attachSession(target, { stdin: undefined, stdout, stderr: undefined, terminal: undefined, signal: new AbortController().signal });
  const ended = session.then(
    () => undefined,
    (err: unknown) => err,
  );
  const hear = await joined;
  let pieces = 0;
  let cutOff: unknown;
  void ended.then((err) => {
    cutOff = err;
  });
  for (; cutOff === undefined && pieces < 100_000; pieces += 1) {
    hear('stdout', Buffer.from('x'));
    if (pieces % 100 === 0) await turn();
  }
  expect(await ended).toMatchObject({ kind: 'resourceExhausted', message: expect.stringContaining('too slow') });
  expect(pieces).toBeGreaterThan(1_000);
});
