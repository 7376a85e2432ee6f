import { mkdir, mkdtempDisposable, readdir, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLog } from '#base/log.ts';
import { digestOf, hexOf } from '../../../storage/digest.ts';
import { Downloads, type DownloadsOptions } from '../../../storage/downloads.ts';
import { Staging } from '../../../storage/staging.ts';
import { Trash } from '../../../storage/trash.ts';

async function setUp() {
  const stack = new AsyncDisposableStack();
  const { path: root } = stack.use(await mkdtempDisposable(join(tmpdir(), 'downloads-')));
  const trash = stack.use(await Trash.open(join(root, 'trash'), silentLog));
  const staging = await Staging.open(join(root, 'staging'), trash);
  const dir = join(root, 'downloads');
  await mkdir(dir);
  return {
    open: (options: Partial<DownloadsOptions> = {}) => Downloads.open(dir, { staging, log: silentLog, ...options }),
    /** A blob's file that changed so long ago. */
    leave: async (name: string, ageMs: number, bytes = 10) => {
      const path = join(dir, hexOf(digestOf(name)));
      await writeFile(path, Buffer.alloc(bytes, 'x'));
      await utimes(path, new Date(), new Date(Date.now() - ageMs));
    },
    list: async () => {
      const names = await readdir(dir);
      return ['a', 'b', 'c'].filter((name) => names.includes(hexOf(digestOf(name)))).concat(names.filter((name) => name.length !== 64));
    },
    staged: () => readdir(join(root, 'staging')),
    dir,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

test('Downloads drops what is too old, and what is no blob', async () => {
  await using at = await setUp();
  await at.leave('a', 50 * 60_000);
  await at.leave('b', 70 * 60_000);
  await writeFile(join(at.dir, 'junk'), '');
  using _downloads = await at.open();
  expect(await at.list()).toEqual(['a']);
  expect(await at.staged()).toEqual([]);
});

test('Downloads drops the oldest of what is too much, but nothing that is in use', async () => {
  await using at = await setUp();
  using downloads = await at.open({ keptBytes: 5_000 });
  await at.leave('a', 3_000, 4_096);
  await at.leave('b', 2_000, 4_096);
  await at.leave('c', 1_000, 4_096);
  downloads.take(digestOf('a'));
  await downloads.tidy();
  expect(await at.list()).toEqual(['a', 'c']);
  downloads.release(digestOf('a'));
  await downloads.tidy();
  expect(await at.list()).toEqual(['c']);
});

test('Downloads.purge() deletes all but what is in use, drop() also that', async () => {
  await using at = await setUp();
  using downloads = await at.open();
  await at.leave('a', 0);
  await at.leave('b', 0);
  downloads.take(digestOf('a'));
  await downloads.purge();
  expect(await at.list()).toEqual(['a']);
  await downloads.drop(digestOf('a'));
  await downloads.drop(digestOf('a'));
  expect(await at.list()).toEqual([]);
});
