import { expect, test } from 'vitest';
import { categoryPair, SelinuxLevels } from '../../../../server/oci/selinux-levels.ts';

test('categoryPair() counts every pair once, the lower category first', () => {
  expect([0, 1, 1022, 1023, 523_775].map(categoryPair)).toEqual(['c0,c1', 'c0,c2', 'c0,c1023', 'c1,c2', 'c1022,c1023']);
  const all = new Set(Array.from({ length: 523_776 }, (_, number) => categoryPair(number)));
  expect(all.size).toBe(523_776);
});

test('SelinuxLevels gives nobody what another has, whether it was taken, asked for or found in a record', () => {
  const levels = new SelinuxLevels(() => 0);
  levels.hold('asked', 's0:c0,c1');
  levels.hold('found', 's0:c0,c3');
  expect(levels.take('a', 's0')).toBe('s0:c0,c2');
  expect(levels.take('b', 's0-s0:c0.c1023')).toBe('s0:c0,c4');
  levels.release('a');
  levels.release('a');
  expect(levels.take('c', 's0')).toBe('s0:c0,c2');
  expect(levels.take('d', 's15:c1')).toBe('s15:c0,c1');
});

test('SelinuxLevels keeps a level that two have until both are gone', () => {
  const levels = new SelinuxLevels(() => 0);
  for (const id of ['one', 'two']) levels.hold(id, 's0:c0,c1');
  levels.release('one');
  expect(levels.take('a', 's0')).toBe('s0:c0,c2');
  levels.release('two');
  expect(levels.take('b', 's0')).toBe('s0:c0,c1');
});

test('SelinuxLevels begins anywhere and goes around', () => {
  const levels = new SelinuxLevels((below) => below - 1);
  expect([levels.take('a', 's0'), levels.take('b', 's0')]).toEqual(['s0:c1022,c1023', 's0:c0,c1']);
  const random = new SelinuxLevels();
  expect(new Set(Array.from({ length: 200 }, (_, index) => random.take(`pod${index}`, 's0'))).size).toBe(200);
});
