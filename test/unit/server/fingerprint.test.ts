import { expect, test } from 'vitest';
import { fingerprint } from '../../../server/fingerprint.ts';
import { containerFingerprint } from '../../../server/rpc/container.ts';

test('fingerprint() is equal for maps in another order, and not for lists', () => {
  expect(fingerprint({ labels: { a: '1', b: '2' } })).toBe(fingerprint({ labels: { b: '2', a: '1' } }));
  expect(fingerprint({ args: ['a', 'b'] })).not.toBe(fingerprint({ args: ['b', 'a'] }));
});

test('fingerprint() tells bytes apart', () => {
  expect(fingerprint({ value: Buffer.from([255]) })).not.toBe(fingerprint({ value: Buffer.from([254]) }));
});

test('fingerprint() tells a map from a list of its pairs, and values from absent ones', () => {
  expect(fingerprint({ a: { b: 'c' } })).not.toBe(fingerprint({ a: 'b' }));
  expect(fingerprint({ a: null })).not.toBe(fingerprint({ a: '' }));
});

test('containerFingerprint() leaves out the source of the termination log alone', () => {
  const config = (host: string, other: string) =>
    ({
      annotations: { 'io.kubernetes.container.terminationMessagePath': '/dev/termination-log' },
      mounts: [
        { container_path: '/data', host_path: other },
        { container_path: '/dev/termination-log', host_path: host },
      ],
    }) as never;
  expect(containerFingerprint(config('/pods/x/1', '/srv'))).toBe(containerFingerprint(config('/pods/x/2', '/srv')));
  expect(containerFingerprint(config('/pods/x/1', '/srv'))).not.toBe(containerFingerprint(config('/pods/x/1', '/etc')));
});
