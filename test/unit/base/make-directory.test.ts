import { mkdtempDisposable, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeDirectory } from '#base/make-directory.ts';

test('makeDirectory() makes what is missing, and takes what is there, a symlink to a directory too', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'mkdir-'));
  await makeDirectory(join(dir.path, 'a/b/c'));
  await makeDirectory(join(dir.path, 'a/b/c'));
  await symlink(join(dir.path, 'a'), join(dir.path, 'link'));
  await makeDirectory(join(dir.path, 'link/b/d'));
  expect((await stat(join(dir.path, 'a/b/d'))).isDirectory()).toBe(true);
});

test('makeDirectory() fails where something else is in the way', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'mkdir-'));
  await writeFile(join(dir.path, 'file'), '');
  await expect(makeDirectory(join(dir.path, 'file'))).rejects.toMatchObject({ code: 'EEXIST' });
  await expect(makeDirectory(join(dir.path, 'file/x'))).rejects.toMatchObject({ code: 'ENOTDIR' });
});

test('makeDirectory() ends where the kernel refuses, as in /proc', async () => {
  await expect(makeDirectory('/proc/none/of/this')).rejects.toMatchObject({ code: 'ENOENT' });
});
