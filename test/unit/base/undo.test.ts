import { expect, test } from 'vitest';
import { Undo } from '#base/undo.ts';

test('Undo runs its steps in reverse when the scope is left early', async () => {
  const done: string[] = [];
  const attempt = async () => {
    await using undo = new Undo(() => {});
    undo.step('a', async () => void done.push('a'));
    undo.step('b', async () => void done.push('b'));
    throw new Error('failed');
  };
  await expect(attempt()).rejects.toThrow('failed');
  expect(done).toEqual(['b', 'a']);
});

test('Undo keeps everything after commit()', async () => {
  const done: string[] = [];
  {
    await using undo = new Undo(() => {});
    undo.step('a', async () => void done.push('a'));
    undo.commit();
  }
  expect(done).toEqual([]);
});

test('Undo reports a step that fails and runs the rest', async () => {
  const done: string[] = [];
  const failed: string[] = [];
  {
    await using undo = new Undo((step) => failed.push(step));
    undo.step('a', async () => void done.push('a'));
    undo.step('b', () => Promise.reject(new Error('stuck')));
  }
  expect([done, failed]).toEqual([['a'], ['b']]);
});
