import { expect, test } from 'vitest';
import { parseQuantity, readBandwidth } from '../../../cni/bandwidth.ts';

test.each([
  ['10M', 10_000_000],
  ['1.5Gi', 1_610_612_736],
  ['1e6', 1_000_000],
  ['2E3', 2_000],
  ['.5k', 500],
  ['5.', 5],
  ['1200m', 2],
  ['0', 0],
  ['-3', -3],
  ['1E', 1e18],
])('parseQuantity() reads %s', (text, expected) => {
  expect(parseQuantity(text)).toBe(expected);
});

test.each(['', ' ', '10 M', '10Mb', 'M', '1ki', '1e', '0x10', '1,5', '1.2.3', '9e999'])('parseQuantity() refuses %j', (text) => {
  expect(parseQuantity(text)).toBeUndefined();
});

test('readBandwidth() gives each rate its burst', () => {
  expect(readBandwidth({ other: 'x' })).toBeUndefined();
  expect(readBandwidth({ 'kubernetes.io/ingress-bandwidth': '1M' })).toEqual({ ingressRate: 1_000_000, ingressBurst: 2_147_483_647 });
  expect(readBandwidth({ 'kubernetes.io/egress-bandwidth': '1Mi' })).toEqual({ egressRate: 1_048_576, egressBurst: 2_147_483_647 });
});

test.each([
  ['fast', 'annotation kubernetes.io/egress-bandwidth: "fast" is not a quantity'],
  ['999', 'annotation kubernetes.io/egress-bandwidth: "999" is not between 1k and 1P bits per second'],
  ['2P', 'annotation kubernetes.io/egress-bandwidth: "2P" is not between 1k and 1P bits per second'],
  ['-1M', 'is not between 1k and 1P'],
])('readBandwidth() refuses %s', (value, message) => {
  expect(() => readBandwidth({ 'kubernetes.io/egress-bandwidth': value })).toThrow(message);
});
