import { expect, test } from 'vitest';
import { Locks, Semaphore } from '#base/lock.ts';

const never = new AbortController().signal;

test('acquire() lets one in at a time, in the order they asked', async () => {
  const locks = new Locks();
  const seen: string[] = [];
  const work = async (name: string) => {
    await using _ = await locks.acquire('a', never);
    seen.push(`${name} in`);
    await new Promise((resolve) => setImmediate(resolve));
    seen.push(`${name} out`);
  };
  await Promise.all([work('1'), work('2'), work('3')]);
  expect(seen).toEqual(['1 in', '1 out', '2 in', '2 out', '3 in', '3 out']);
  expect(locks.isBusy('a')).toBe(false);
});

test('acquire() keeps ids apart', async () => {
  const locks = new Locks();
  await using _a = await locks.acquire('a', never);
  await using _b = await locks.acquire('b', never);
  expect(locks.isBusy('b')).toBe(true);
});

test('acquire() leaves the queue when aborted, and the next one still gets its turn', async () => {
  const locks = new Locks();
  const first = await locks.acquire('a', never);
  const quitter = new AbortController();
  const second = locks.acquire('a', quitter.signal);
  const third = locks.acquire('a', never);
  quitter.abort(new Error('left'));
  await expect(second).rejects.toThrow('left');
  await first[Symbol.asyncDispose]();
  await (await third)[Symbol.asyncDispose]();
  await Promise.resolve();
  expect(locks.isBusy('a')).toBe(false);
});

test('Semaphore runs at most its limit at once', async () => {
  const semaphore = new Semaphore(2);
  let now = 0;
  let most = 0;
  await Promise.all(
    Array.from({ length: 9 }, () =>
      semaphore.run(async () => {
        now += 1;
        most = Math.max(most, now);
        await new Promise((resolve) => setImmediate(resolve));
        now -= 1;
      }, never),
    ),
  );
  expect(most).toBe(2);
});

test('Semaphore passes a place on when the work fails or a waiter leaves', async () => {
  const semaphore = new Semaphore(1);
  await expect(semaphore.run(() => Promise.reject(new Error('no')), never)).rejects.toThrow('no');
  const holding = Promise.withResolvers<void>();
  const held = semaphore.run(() => holding.promise, never);
  const quitter = new AbortController();
  const left = semaphore.run(async () => 'never', quitter.signal);
  const next = semaphore.run(async () => 'next', never);
  quitter.abort(new Error('left'));
  await expect(left).rejects.toThrow('left');
  holding.resolve();
  await held;
  expect(await next).toBe('next');
});

test('Semaphore.resize() lets more in at once, and fewer as places become free', async () => {
  const semaphore = new Semaphore(1);
  const ends = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
  const running: number[] = [];
  const works = ends.map(({ promise }, index) =>
    semaphore.run(() => {
      running.push(index);
      return promise;
    }, never),
  );
  await new Promise((resolve) => setImmediate(resolve));
  expect(running).toEqual([0]);
  semaphore.resize(3);
  await new Promise((resolve) => setImmediate(resolve));
  expect(running).toEqual([0, 1, 2]);
  semaphore.resize(1);
  for (const index of [0, 1]) ends[index]?.resolve();
  await Promise.all(works.slice(0, 2));
  expect(running).toEqual([0, 1, 2]);
  ends[2]?.resolve();
  await works[2];
  expect(running).toEqual([0, 1, 2, 3]);
  ends[3]?.resolve();
  await works[3];
});
