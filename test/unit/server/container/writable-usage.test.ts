import { expect, test } from 'vitest';
import { silentLog } from '#base/log.ts';
import { type WritableLayer, WritableLayerUsage } from '../../../../server/container/writable-usage.ts';
import { until } from '../../../support/wait.ts';

const layer = (containerId: string): WritableLayer => ({ containerId, directory: `/upper/${containerId}` });

test('get() is undefined at first and then the latest figure, one walk at a time and in turn', async () => {
  const walked: string[] = [];
  let walking = 0;
  let most = 0;
  await using usage = new WritableLayerUsage({
    layers: () => ['a', 'b', 'c'].map(layer),
    measure: async (directory) => {
      walking += 1;
      most = Math.max(most, walking);
      await Promise.resolve();
      walking -= 1;
      walked.push(directory);
      return { bytes: walked.length, inodes: 1 };
    },
    log: silentLog,
    refreshMs: 20,
    lookMs: 5,
  });
  expect(usage.get('a')).toBeUndefined();
  await until('three rounds', () => walked.length >= 9);
  expect(most).toBe(1);
  expect(walked.slice(0, 9)).toEqual(['a', 'b', 'c', 'a', 'b', 'c', 'a', 'b', 'c'].map((id) => `/upper/${id}`));
  expect(usage.get('c')).toMatchObject({ inodes: 1, timestampNs: expect.any(BigInt) });
  expect(usage.get('c')?.bytes).toBeGreaterThanOrEqual(9);
});

test('a layer that is not listed any more is forgotten, and a new one is found', async () => {
  let ids = ['old'];
  await using usage = new WritableLayerUsage({
    layers: () => ids.map(layer),
    measure: async () => ({ bytes: 1, inodes: 1 }),
    log: silentLog,
    refreshMs: 1_000_000,
    lookMs: 5,
  });
  await until('the old one', () => usage.get('old'));
  ids = ['new'];
  await until('the new one', () => usage.get('new'));
  expect(usage.get('old')).toBeUndefined();
});

test('a walk that fails keeps the figure of before, warns once, and does not stop the others', async () => {
  const warnings: unknown[] = [];
  let fails = false;
  let attempts = 0;
  await using usage = new WritableLayerUsage({
    layers: () => ['bad', 'good'].map(layer),
    measure: async (directory) => {
      if (!directory.endsWith('bad')) return { bytes: attempts, inodes: 1 };
      attempts += 1;
      if (fails) throw new Error('EIO');
      return { bytes: 5, inodes: 2 };
    },
    log: { ...silentLog, warn: (fields: object) => warnings.push(fields) } as typeof silentLog,
    refreshMs: 5,
    lookMs: 5,
  });
  await until('a figure', () => usage.get('bad'));
  fails = true;
  const before = attempts;
  await until('some failures', () => attempts > before + 3 && (usage.get('good')?.bytes ?? 0) > before + 3);
  expect(usage.get('bad')).toMatchObject({ bytes: 5, inodes: 2 });
  expect(warnings).toHaveLength(1);
});

test('disposing ends the walk under way and starts no other', async () => {
  let walks = 0;
  let aborted = false;
  const usage = new WritableLayerUsage({
    layers: () => [layer('a')],
    measure: (_directory, { signal }) => {
      walks += 1;
      return new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          aborted = true;
          reject(signal.reason);
        });
      });
    },
    log: silentLog,
    refreshMs: 1,
    lookMs: 1,
  });
  await until('the walk to begin', () => walks === 1);
  await usage[Symbol.asyncDispose]();
  expect([walks, aborted]).toEqual([1, true]);
  expect(usage.get('a')).toBeUndefined();
});
