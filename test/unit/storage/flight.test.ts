import { expect, test, vi } from 'vitest';
import { Flights } from '../../../storage/flight.ts';

const never = new AbortController().signal;

test('Flights does work once for all who join, and again for later ones', async () => {
  const flights = new Flights<number>();
  let count = 0;
  const work = async (): Promise<number> => {
    await new Promise(setImmediate);
    count += 1;
    return count;
  };
  expect(await Promise.all([1, 2, 3].map(() => flights.join('a', work, { signal: never })))).toEqual([1, 1, 1]);
  expect(await flights.join('a', work, { signal: never })).toBe(2);
});

test('Flights ends work only when the last caller has left', async () => {
  const flights = new Flights<string>();
  const ended: unknown[] = [];
  const work = (signal: AbortSignal): Promise<string> =>
    new Promise((_resolve, reject) =>
      signal.addEventListener('abort', () => {
        ended.push(signal.reason);
        reject(signal.reason);
      }),
    );
  const [first, second] = [new AbortController(), new AbortController()];
  const results = [first, second].map(({ signal }) => flights.join('a', work, { signal }));
  first.abort(new Error('first left'));
  await expect(results[0]).rejects.toThrow('first left');
  expect(ended).toEqual([]);
  second.abort(new Error('second left'));
  await expect(results[1]).rejects.toThrow('second left');
  expect(ended).toEqual([new Error('second left')]);
});

test('Flights lets a caller come back within the grace', async () => {
  const flights = new Flights<string>();
  const done = Promise.withResolvers<string>();
  const leaver = new AbortController();
  const left = flights.join('a', () => done.promise, { signal: leaver.signal, graceMs: 60_000 });
  leaver.abort(new Error('gone'));
  await expect(left).rejects.toThrow('gone');
  const back = flights.join('a', () => Promise.reject(new Error('started again')), { signal: never });
  done.resolve('first work');
  expect(await back).toBe('first work');
});

test('Flights gives each who leaves last the whole grace', async () => {
  vi.useFakeTimers();
  try {
    const flights = new Flights<string>();
    let ended = false;
    const work = (signal: AbortSignal): Promise<string> => {
      signal.addEventListener('abort', () => (ended = true));
      return new Promise(() => {});
    };
    const visit = async (): Promise<void> => {
      const leaver = new AbortController();
      const left = flights.join('a', work, { signal: leaver.signal, graceMs: 5_000 });
      leaver.abort(new Error('gone'));
      await expect(left).rejects.toThrow('gone');
    };
    await visit();
    await vi.advanceTimersByTimeAsync(3_000);
    await visit();
    await vi.advanceTimersByTimeAsync(4_900);
    expect(ended).toBe(false);
    await vi.advanceTimersByTimeAsync(200);
    expect(ended).toBe(true);
  } finally {
    vi.useRealTimers();
  }
});

test('Flights.join() with retryOwn does the work itself when what it joined fails', async () => {
  const flights = new Flights<string>();
  const failing = Promise.withResolvers<string>();
  const leader = flights.join('a', () => failing.promise, { signal: never, retryOwn: true });
  const follower = flights.join('a', async () => 'mine', { signal: never, retryOwn: true });
  failing.reject(new Error('theirs'));
  await expect(leader).rejects.toThrow('theirs');
  expect(await follower).toBe('mine');
});
