import { mkdtempDisposable, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { digestOf } from '../../../storage/digest.ts';
import { PartialFile } from '../../../storage/partial.ts';

const { signal } = new AbortController();
const blob = Buffer.from('0123456789'.repeat(300_000));

test('PartialFile goes on where the file stops, and has the digest of all of it', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'partial-'));
  const path = join(dir.path, 'blob');
  {
    using file = await PartialFile.open(path, blob.length, signal);
    expect(file.bytes).toBe(0);
    file.write(blob.subarray(0, 2_500_001));
  }
  using file = await PartialFile.open(path, blob.length, signal);
  expect([file.bytes, file.written]).toEqual([2_500_001, 0]);
  file.write(blob.subarray(2_500_001));
  expect([file.bytes, file.written]).toEqual([blob.length, blob.length - 2_500_001]);
  expect(file.digest()).toBe(digestOf(blob));
  expect(await readFile(path)).toEqual(blob);
});

test('PartialFile that begins anew writes over what was there', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'partial-'));
  const path = join(dir.path, 'blob');
  await writeFile(path, Buffer.alloc(blob.length, 'x'));
  using file = await PartialFile.open(path, blob.length, signal);
  expect(file.digest()).not.toBe(digestOf(blob));
  file.restart();
  expect(file.bytes).toBe(0);
  file.write(blob);
  expect(file.digest()).toBe(digestOf(blob));
  expect(await readFile(path)).toEqual(blob);
});

test('PartialFile.open() takes nothing from a file that is too long', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'partial-'));
  const path = join(dir.path, 'blob');
  await writeFile(path, 'longer than it may be');
  using file = await PartialFile.open(path, 5, signal);
  file.write(Buffer.from('right'));
  expect(await readFile(path, 'utf8')).toBe('right');
});
