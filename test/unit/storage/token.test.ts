import { expect, test } from 'vitest';
import { matchesPin } from '../../../storage/pin.ts';
import { parseRetryAfter } from '../../../storage/retry.ts';
import { parseChallenges } from '../../../storage/token.ts';

test('parseChallenges() reads quoted and bare parameters, and several challenges', () => {
  expect(parseChallenges('Bearer realm="https://a.com/token",service="a.com",scope="repository:x:pull,push"')).toEqual([
    { scheme: 'bearer', parameters: { realm: 'https://a.com/token', service: 'a.com', scope: 'repository:x:pull,push' } },
  ]);
  expect(parseChallenges('Basic realm=a, Bearer Realm="b \\"c\\"" , service=d')).toEqual([
    { scheme: 'basic', parameters: { realm: 'a' } },
    { scheme: 'bearer', parameters: { realm: 'b "c"', service: 'd' } },
  ]);
  expect(parseChallenges('Negotiate')).toEqual([{ scheme: 'negotiate', parameters: {} }]);
  expect(parseChallenges('')).toEqual([]);
});

test('parseRetryAfter() reads seconds and dates', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  expect(parseRetryAfter('3', now)).toBe(3_000);
  expect(parseRetryAfter('Thu, 01 Jan 2026 00:00:10 GMT', now)).toBe(10_000);
  expect(parseRetryAfter('Wed, 31 Dec 2025 00:00:00 GMT', now)).toBe(0);
  expect(parseRetryAfter('soon', now)).toBeUndefined();
  expect(parseRetryAfter(undefined, now)).toBeUndefined();
});

test('matchesPin() knows whole names, prefixes and keywords', () => {
  const name = 'registry.k8s.io/pause:3.9';
  expect(matchesPin(name, [name])).toBe(true);
  expect(matchesPin(name, ['registry.k8s.io/pause*'])).toBe(true);
  expect(matchesPin(name, ['*pause*'])).toBe(true);
  expect(matchesPin(name, ['pause', 'pause*', 'registry.k8s.io/pause', '*3.10*', ''])).toBe(false);
  expect(matchesPin(name, ['*'])).toBe(true);
});
