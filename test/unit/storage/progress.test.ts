import { expect, test } from 'vitest';
import { type Digest, digestOf } from '../../../storage/digest.ts';
import { BlobProgress, describeProgress, PullTracker, Rate } from '../../../storage/progress.ts';

const MIB = 1024 * 1024;
const layers = [1, 2, 3].map((mib) => ({ digest: digestOf(`${mib}`), sizeBytes: mib * MIB }));

test('Rate is what came over the last seconds, and nothing after a pause', () => {
  const rate = new Rate();
  rate.add(1_000, 10_000);
  rate.add(3_000, 11_000);
  expect(rate.perSecond(10_000, 12_000)).toBe(2_000);
  expect(rate.perSecond(0, 14_000)).toBe(800);
  expect(rate.perSecond(0, 15_500)).toBe(600);
  expect(rate.perSecond(0, 17_000)).toBe(0);
});

test('PullTracker tells the state and the bytes of each layer', () => {
  const blobs = new Map<Digest, BlobProgress>();
  const tracker = new PullTracker('busybox', (digest) => blobs.get(digest));
  expect(tracker.view(2)).toMatchObject({ image: 'busybox', stage: 'manifest', waiters: 2, layers: [], totalBytes: 0 });
  expect(describeProgress(tracker.view(1))).toBe('its manifest has not come yet');

  tracker.begin(layers, 'example.com');
  tracker.layerDone(0); // nothing was fetched for it
  const [, second, third] = layers as [(typeof layers)[0], (typeof layers)[0], (typeof layers)[0]];
  const coming = new BlobProgress(second.sizeBytes);
  blobs.set(second.digest, coming);
  coming.state = 'downloading';
  expect(coming.take({ receivedBytes: MIB, fetchedBytes: MIB / 2, source: 'mirror:5000', retries: 1 })).toEqual({ bytes: MIB / 2, retries: 1 });
  expect(coming.take({ receivedBytes: MIB, fetchedBytes: 0, source: '', retries: 0 })).toEqual({ bytes: 0, retries: 0 }); // another job
  expect(coming.take({ receivedBytes: MIB, fetchedBytes: 7, source: '', retries: 1 })).toEqual({ bytes: 7, retries: 1 });
  tracker.received(second.digest, MIB / 2);
  const seen = tracker.view(1);
  expect(seen.layers.map(({ state, receivedBytes, source }) => [state, receivedBytes, source])).toEqual([
    ['present', MIB, ''],
    ['downloading', MIB, 'mirror:5000'],
    ['waiting', 0, ''],
  ]);
  expect(seen).toMatchObject({ stage: 'layers', totalBytes: 5 * MIB, receivedBytes: MIB, layersDone: 1, retries: 1, source: 'mirror:5000' });
  expect(seen.bytesPerSecond).toBeGreaterThan(0);
  expect(describeProgress({ ...seen, bytesPerSecond: 209_715 })).toBe('1 of 3 layers done, 1.0 of 5.0 MiB at 0.2 MiB/s from mirror:5000, 1 retry');

  coming.state = 'unpacking';
  expect(tracker.view(1).layers[1]?.state).toBe('unpacking');
  tracker.layerDone(1);
  blobs.delete(second.digest);
  expect(tracker.view(1).layers[1]).toMatchObject({ state: 'done', receivedBytes: 2 * MIB, source: 'mirror:5000' });
  expect(tracker.view(1).layers[2]).toMatchObject({ digest: third.digest, state: 'waiting' });
});
