import { mkdir, mkdtempDisposable, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { newId, type ObjectId } from '#base/id.ts';
import { Records } from '../../../server/records.ts';

interface Thing {
  readonly id: ObjectId;
  readonly count: number;
}

async function temporary() {
  const dir = await mkdtempDisposable(join(tmpdir(), 'records-'));
  const open = () => Records.open<Thing>(join(dir.path, 'things'), join(dir.path, 'trash'));
  return { ...dir, open, [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose]() };
}

test('Records reads back what it wrote', async () => {
  await using dir = await temporary();
  const { records } = await dir.open();
  const id = newId();
  await records.insert({ id, count: 1 });
  await records.update(id, (old) => ({ ...old, count: old.count + 1 }));
  const { records: again, damaged } = await dir.open();
  expect([...again.values()]).toEqual([{ id, count: 2 }]);
  expect(damaged).toEqual([]);
});

test('update() loses no change when many come at once', async () => {
  await using dir = await temporary();
  const { records } = await dir.open();
  const id = newId();
  await records.insert({ id, count: 0 });
  await Promise.all(Array.from({ length: 50 }, () => records.update(id, (old) => ({ ...old, count: old.count + 1 }))));
  expect(records.get(id)?.count).toBe(50);
  expect((await dir.open()).records.get(id)?.count).toBe(50);
});

test('update() keeps the old record when the change is refused or fails', async () => {
  await using dir = await temporary();
  const { records } = await dir.open();
  const id = newId();
  await records.insert({ id, count: 1 });
  expect(await records.update(id, () => undefined)).toBeUndefined();
  await expect(
    records.update(id, () => {
      throw new Error('no');
    }),
  ).rejects.toThrow('no');
  expect(records.get(id)?.count).toBe(1);
  expect(await records.update(id, (old) => ({ ...old, count: 7 }))).toEqual({ id, count: 7 });
});

test('insert() that cannot write leaves nothing behind', async () => {
  await using dir = await temporary();
  const { records } = await dir.open();
  const id = newId();
  const circular: { id: ObjectId; count: number; self?: unknown } = { id, count: 1 };
  circular.self = circular;
  await expect(records.insert(circular)).rejects.toThrow('circular');
  expect(await readdir(join(dir.path, 'things'))).toEqual([]);
  expect(records.get(id)).toBeUndefined();
});

test('remove() takes the directory away at once, and what is gone counts as removed', async () => {
  await using dir = await temporary();
  const { records } = await dir.open();
  const id = newId();
  await records.insert({ id, count: 1 });
  await writeFile(join(records.directory(id), 'data'), 'x');
  await records.remove(id);
  await records.remove(id);
  expect(records.get(id)).toBeUndefined();
  expect(await readdir(join(dir.path, 'things'))).toEqual([]);
  expect(await records.update(id, (old) => old)).toBeUndefined();
});

test('remove() takes the directory away when the trash itself is gone', async () => {
  await using dir = await temporary();
  const { records } = await dir.open();
  const id = newId();
  await records.insert({ id, count: 1 });
  await rm(join(dir.path, 'trash'), { recursive: true });
  await records.remove(id);
  expect([...(await dir.open()).records.values()]).toEqual([]);
});

test('open() tells damaged records and keeps the good ones', async () => {
  await using dir = await temporary();
  const { records } = await dir.open();
  const good = newId();
  await records.insert({ id: good, count: 1 });
  const [cut, foreign, empty] = [newId(), newId(), newId()];
  const text = await readFile(join(records.directory(good), 'record.json'), 'utf8');
  for (const id of [cut, foreign, empty]) await mkdir(records.directory(id));
  await writeFile(join(records.directory(cut), 'record.json'), text.slice(0, 20));
  await writeFile(join(records.directory(foreign), 'record.json'), text);
  const { records: again, damaged } = await dir.open();
  expect([...again.values()].map(({ id }) => id)).toEqual([good]);
  expect(damaged.map(({ id }) => id).sort()).toEqual([cut, foreign, empty].sort());
});
