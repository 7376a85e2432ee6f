import { expect, test } from 'vitest';
import { StatsCollector } from '../../../../server/container/stats.ts';
import type { CgroupStats } from '../../../../server/oci/cgroup-stats.ts';

const target = { id: 'c', cgroupPath: '/pod/c' };
const SECOND = 1_000_000_000n;

/** A cgroup whose clock and CPU time the test sets, in milliseconds. */
function cgroup() {
  const state = { present: true, atMs: 0n, cpuMs: 0n };
  const stats = async (): Promise<CgroupStats | undefined> =>
    state.present
      ? {
          timestampNs: state.atMs * 1_000_000n,
          cpuUsageNs: state.cpuMs * 1_000_000n,
          memory: { usageBytes: 1, workingSetBytes: 1, rssBytes: 1, pageFaults: 0, majorPageFaults: 0, limitBytes: undefined, availableBytes: undefined },
          swap: { usageBytes: 0, availableBytes: undefined },
          pids: 1,
          psi: undefined,
        }
      : undefined;
  const collector = new StatsCollector({ stats });
  const rateAt = async (atMs: bigint, cpuMs: bigint): Promise<bigint | undefined> => {
    state.atMs = atMs;
    state.cpuMs = cpuMs;
    return (await collector.sample(target))?.cpuUsageNanoCores;
  };
  return { state, collector, rateAt };
}

test('sample() has no rate at first, and then the one between two samples', async () => {
  const { rateAt } = cgroup();
  expect(await rateAt(0n, 500n)).toBeUndefined();
  expect(await rateAt(10_000n, 5_500n)).toBe(SECOND / 2n);
  expect(await rateAt(12_000n, 9_500n)).toBe(2n * SECOND);
});

test('sample() repeats the rate of before within the same second', async () => {
  const { rateAt } = cgroup();
  await rateAt(0n, 0n);
  expect(await rateAt(2_000n, 1_000n)).toBe(SECOND / 2n);
  expect(await rateAt(2_400n, 1_400n)).toBe(SECOND / 2n);
  expect(await rateAt(3_000n, 2_000n)).toBe(SECOND);
});

test('sample() has no rate after a long silence, a clock set back or a new cgroup', async () => {
  const { rateAt } = cgroup();
  await rateAt(0n, 0n);
  expect(await rateAt(121_000n, 1_000n)).toBeUndefined();
  expect(await rateAt(123_000n, 2_000n)).toBe(SECOND / 2n);
  expect(await rateAt(100_000n, 3_000n)).toBeUndefined();
  expect(await rateAt(102_000n, 1_000n)).toBeUndefined();
  expect(await rateAt(104_000n, 2_000n)).toBe(SECOND / 2n);
});

test('sample() is undefined when the cgroup is gone, and begins anew after that', async () => {
  const { state, collector, rateAt } = cgroup();
  await rateAt(0n, 0n);
  state.present = false;
  expect(await collector.sample(target)).toBeUndefined();
  state.present = true;
  expect(await rateAt(2_000n, 1_000n)).toBeUndefined();
});
