import { expect, test } from 'vitest';
import { Gate } from '../../../cni/gate.ts';

const { signal } = new AbortController();

test('Gate lets a GC in when nothing runs, and holds others while it is at work', async () => {
  const gate = new Gate();
  const order: string[] = [];
  const [first, second, collected] = [Promise.withResolvers<void>(), Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const add = (name: string, until: Promise<void>) =>
    gate.pass(async () => {
      order.push(name);
      await until;
    }, signal);
  const adding = add('first', first.promise);
  const collecting = gate.alone(async () => {
    order.push('gc');
    await collected.promise;
  }, signal);
  const more = add('second', second.promise); // does not wait for the GC that waits
  first.resolve();
  await adding;
  expect(order).toEqual(['first', 'second']);
  second.resolve();
  await more;
  await expect.poll(() => order).toEqual(['first', 'second', 'gc']);
  const third = add('third', Promise.resolve());
  await Promise.resolve();
  expect(order).toHaveLength(3);
  collected.resolve();
  await Promise.all([collecting, third]);
  expect(order).toEqual(['first', 'second', 'gc', 'third']);
});

test('Gate goes on when what passed has failed, and gives up a GC whose time has run out', async () => {
  const gate = new Gate();
  await expect(gate.pass(() => Promise.reject(new Error('ADD failed')), signal)).rejects.toThrow('ADD failed');
  await expect(gate.alone(() => Promise.reject(new Error('GC failed')), signal)).rejects.toThrow('GC failed');
  const held = Promise.withResolvers<void>();
  const passing = gate.pass(() => held.promise, signal);
  const controller = new AbortController();
  const collecting = gate.alone(async () => {}, controller.signal);
  controller.abort(new Error('too late'));
  await expect(collecting).rejects.toThrow('too late');
  held.resolve();
  await passing;
});
