import { expect, test, vi } from 'vitest';
import { ChildPool } from '../../../storage/child-pool.ts';

test('ChildPool.warm() starts no more children than are wanted or allowed, and they end when nothing comes', async () => {
  await using pool = new ChildPool({ entry: 'unpack-child', processes: 2, jobsEach: 1, cancelBy: 'kill', idleMs: 2_000 });
  pool.warm(1);
  expect(pool.pids()).toHaveLength(1);
  pool.warm(5);
  pool.warm(5);
  expect(pool.pids()).toHaveLength(2);
  await vi.waitFor(() => expect(pool.pids()).toEqual([]), { timeout: 30_000 });
});

test('ChildPool.run() takes a child that is warm', async () => {
  await using pool = new ChildPool({ entry: 'unpack-child', processes: 2, jobsEach: 1, cancelBy: 'kill', idleMs: 10_000 });
  pool.warm(1);
  const warm = pool.pids();
  const { signal } = new AbortController();
  await pool.run({ op: 'settle', dir: '/', implied: [], lower: [] }, signal);
  expect(pool.pids()).toEqual(warm);
});
