import { expect, test } from 'vitest';
import { Tokens } from '../../../../server/stream/tokens.ts';

test('Tokens: a token is good once', () => {
  const tokens = new Tokens<string>();
  const token = tokens.add('a');
  expect(token).toMatch(/^[\w-]{22}$/);
  expect(tokens.take('other')).toBeUndefined();
  expect(tokens.take(token)).toBe('a');
  expect(tokens.take(token)).toBeUndefined();
});

test('Tokens: a token is good for a minute', () => {
  let nowMs = 0;
  const tokens = new Tokens<string>(() => nowMs);
  const first = tokens.add('a');
  nowMs = 30_000;
  const second = tokens.add('b');
  nowMs = 60_000;
  expect(tokens.take(first)).toBeUndefined();
  expect(tokens.take(second)).toBe('b');
});

test('Tokens: at most 1,000 wait; late and used ones make room', () => {
  let nowMs = 0;
  const tokens = new Tokens<number>(() => nowMs);
  const all = Array.from({ length: 1_000 }, (_, index) => tokens.add(index));
  expect(() => tokens.add(1_000)).toThrow(expect.objectContaining({ kind: 'resourceExhausted', message: expect.stringContaining('1000 sessions wait') }));
  tokens.take(all[500] ?? '');
  tokens.add(1_000);
  expect(() => tokens.add(1_001)).toThrow();
  nowMs = 60_000;
  tokens.add(1_001);
});
