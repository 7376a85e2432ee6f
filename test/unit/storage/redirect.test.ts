import { expect, test } from 'vitest';
import { isSameParty } from '../../../storage/redirect.ts';

test.each([
  ['https://a.com/x', 'https://a.com/y', true],
  ['https://a.com/x', 'https://a.com:8443/y', false],
  ['https://a.com/x', 'https://cdn.a.com/y', false],
  ['https://a.com/x', 'http://a.com/x', false],
  ['http://a.com/x', 'https://a.com/x', true],
  ['http://a.com:5000/x', 'https://a.com:5000/x', false],
  ['http://a.com/x', 'https://b.com/x', false],
])('isSameParty() of %s and %s: %s', (first, next, same) => {
  expect(isSameParty(new URL(first), new URL(next))).toBe(same);
});
