import { lstat, mkdir, mkdtempDisposable, readdir, readFile, realpath, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ensureDirectory, ensureVolumes, replaceEtcFile } from '../../../../server/oci/rootfs.ts';

async function makeRootfs() {
  const dir = await mkdtempDisposable(join(tmpdir(), 'rootfs-'));
  const rootfs = join(await realpath(dir.path), 'rootfs');
  await mkdir(rootfs);
  return { rootfs, outside: join(rootfs, '..'), [Symbol.asyncDispose]: () => dir.remove() };
}

describe('ensureDirectory()', () => {
  test('makes what is missing and leaves what is there', async () => {
    await using world = await makeRootfs();
    expect(ensureDirectory(world.rootfs, '/a/b/c')).toBe(join(world.rootfs, 'a/b/c'));
    expect(ensureDirectory(world.rootfs, '/a/./b//c/')).toBe(join(world.rootfs, 'a/b/c'));
    expect(ensureDirectory(world.rootfs, '/')).toBe(world.rootfs);
    expect((await stat(join(world.rootfs, 'a'))).mode & 0o777).toBe(0o755);
  });

  test.each([
    ['an absolute link', '/run', '/var/run/app', 'run/app'],
    ['a relative link', '../run', '/var/run/app', 'run/app'],
    ['a link that climbs', '../../../../run', '/var/run/app', 'run/app'],
    ['dots after a link', '/run', '/var/run/../app', 'app'],
  ])('follows %s inside the rootfs, whether its target is there or not', async (_what, target, path, expected) => {
    for (const there of [true, false]) {
      await using world = await makeRootfs();
      await mkdir(join(world.rootfs, 'var'));
      await symlink(target, join(world.rootfs, 'var/run'));
      if (there) await mkdir(join(world.rootfs, 'run'));
      expect(ensureDirectory(world.rootfs, path)).toBe(join(world.rootfs, expected));
      expect(await readdir(world.outside)).toEqual(['rootfs']);
    }
  });

  test('refuses a file in the way, and links that go round in circles', async () => {
    await using world = await makeRootfs();
    await writeFile(join(world.rootfs, 'file'), '');
    await symlink('loop', join(world.rootfs, 'loop'));
    await symlink('/x/next', join(world.rootfs, 'next'));
    await symlink('/next', join(world.rootfs, 'x'));
    for (const path of ['/file', '/file/below', '/loop', '/loop/below', '/next/below']) {
      expect(() => ensureDirectory(world.rootfs, path)).toThrow(`directory "${path}" cannot be made in the image`);
    }
  });
});

test('ensureVolumes() tells where the directories are on the host', async () => {
  await using world = await makeRootfs();
  await symlink('/srv', join(world.rootfs, 'data'));
  expect(ensureVolumes(world.rootfs, ['/data/db', '/', '/cache'])).toEqual([
    { containerPath: '/data/db', hostPath: join(world.rootfs, 'srv/db') },
    { containerPath: '/cache', hostPath: join(world.rootfs, 'cache') },
  ]);
});

describe('replaceEtcFile()', () => {
  test('replaces a symlink instead of what it points to', async () => {
    await using world = await makeRootfs();
    await mkdir(join(world.rootfs, 'etc'));
    await writeFile(join(world.outside, 'host-passwd'), 'host');
    await symlink('../../host-passwd', join(world.rootfs, 'etc/passwd'));
    replaceEtcFile(world.rootfs, 'passwd', Buffer.from('new'));
    expect(await readFile(join(world.outside, 'host-passwd'), 'utf8')).toBe('host');
    expect((await lstat(join(world.rootfs, 'etc/passwd'))).mode & 0o777).toBe(0o644);
    expect(await readdir(join(world.rootfs, 'etc'))).toEqual(['passwd']);
  });

  test('stays inside when /etc itself is a symlink', async () => {
    await using world = await makeRootfs();
    await mkdir(join(world.outside, 'etc'));
    await mkdir(join(world.rootfs, 'etc2'));
    await symlink('/etc2', join(world.rootfs, 'etc'));
    replaceEtcFile(world.rootfs, 'passwd', Buffer.from('new'));
    expect(await readFile(join(world.rootfs, 'etc2/passwd'), 'utf8')).toBe('new');
    expect(await readdir(join(world.outside, 'etc'))).toEqual([]);
  });
});
