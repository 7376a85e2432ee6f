import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mount, umount } from '#base/sys.ts';
import { withUserNamespace } from '../../../server/sandbox/user-namespace.ts';
import { hexOf } from '../../../storage/digest.ts';
import { mountOverlayRelative } from '../../../storage/overlay.ts';
import type { TestLayer } from '../../fixtures/storage/image.ts';
import { listing, stack } from '../../fixtures/storage/stack.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

describe('root filesystems', () => {
  test('are written to above the image, measured, unmounted twice and mounted again', async () => {
    await using store = await TestStore.open();
    const { storage, signal } = store;
    const id = await store.load(stack);
    const target = await store.mount(id);
    const container = join(store.dir, 'containers/c1');
    writeFileSync(join(target, 'data'), Buffer.alloc(10_000));
    await rm(join(target, 'bin/sh'));
    expect(await storage.writableUsage(container, signal)).toEqual({ usedBytes: expect.any(Number), inodesUsed: 3 });
    expect((await storage.writableUsage(container, signal)).usedBytes).toBeGreaterThanOrEqual(10_000);
    await storage.unmountRootfs(target);
    await storage.unmountRootfs(target);
    await storage.unmountRootfs(join(store.dir, 'nowhere'));
    expect(existsSync(join(target, 'data'))).toBe(false);
    await storage.mountRootfs(id, container, target);
    expect(readFileSync(join(target, 'data'))).toHaveLength(10_000);
    expect(existsSync(join(target, 'bin/sh'))).toBe(false);
  });

  test('are unmounted while in use', async () => {
    await using store = await TestStore.open();
    const target = await store.mount(await store.load(stack));
    writeFileSync(join(target, 'open'), '');
    const file = await import('node:fs/promises').then(({ open }) => open(join(target, 'open')));
    await store.storage.unmountRootfs(target);
    expect(existsSync(join(target, 'open'))).toBe(false);
    await file.close();
  });

  test.each([0, 1, 2, 24, 25, 26, 127, 128, 129, 300])('and read-only mounts are made of %i layers', async (count) => {
    await using store = await TestStore.open();
    const layers: TestLayer[] = Array.from({ length: count }, (_, index) => ({ entries: [{ name: `f${index}` }], compression: 'none' }));
    const id = await store.load(layers);
    const target = await store.mount(id);
    expect(await readdir(target)).toHaveLength(count);
    writeFileSync(join(target, 'new'), '');
    expect(await readdir(await store.mountImage(id))).toHaveLength(count);
  });

  test('of more layers than the kernel mounts are refused before anything is unpacked', async () => {
    await using store = await TestStore.open();
    const layer: TestLayer = { entries: [], compression: 'none' };
    await expect(store.load(Array.from({ length: 500 }, () => layer))).rejects.toMatchObject({
      kind: 'invalidArgument',
      message: expect.stringContaining('has 500 layers'),
    });
    expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
  });

  test('are mounted of 300 layers as kernels before 6.5 take them too', async () => {
    await using store = await TestStore.open();
    const lower = Array.from({ length: 300 }, (_, index) => join(store.dir, 'l', String(index).padStart(10, '0')));
    for (const [index, dir] of lower.entries()) await mkdir(join(dir, `d${index}`), { recursive: true });
    const target = join(store.dir, 'target');
    const upper = { dir: join(store.dir, 'upper'), work: join(store.dir, 'work') };
    for (const dir of [target, upper.dir, upper.work]) await mkdir(dir);
    const home = process.cwd();
    mountOverlayRelative({ lower, upper, target, settings: { index: 'off' }, flags: ['volatile'] });
    try {
      expect(await readdir(target)).toHaveLength(300);
      expect(process.cwd()).toBe(home);
    } finally {
      umount(target);
    }
    expect(() => mountOverlayRelative({ lower: [...lower, '/elsewhere'], target, settings: {}, flags: [] })).toThrow('301 layers are more than');
  });

  test('are mounted volatile, so that the container causes no sync', async () => {
    await using store = await TestStore.open();
    const target = await store.mount(await store.load(stack));
    const line = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .find((mount) => mount.includes(` ${target} `));
    expect(line).toMatch(/[ ,](fsync=)?volatile(,|$)/); // kernels word it differently
  });

  test('of an image that is gone are refused', async () => {
    await using store = await TestStore.open();
    const id = await store.load(stack);
    await store.storage.remove(id, { signal: store.signal });
    expect(() => store.storage.lowerDirs(id)).toThrow('is not in the store');
    await expect(store.mount(id)).rejects.toMatchObject({ kind: 'notFound' });
  });
});

describe('in a user namespace', () => {
  const map = [{ container_id: 0, host_id: 200_000, length: 65_536 }];
  const withUserns = <T>(use: (path: string) => Promise<T>) =>
    withUserNamespace({ uids: map, gids: map }, [], AbortSignal.timeout(30_000), (pathOf) => use(pathOf('user')));

  test.each([0, 1, 3, 30, 129])('images of %i layers belong to whom it maps their owners to', async (count) => {
    await using store = await TestStore.open();
    const layers: TestLayer[] = Array.from({ length: count }, (_, index) => ({ entries: [{ name: `f${index}`, uid: 7, gid: 8 }], compression: 'none' }));
    const id = await store.load(layers);
    const [target, volume] = [join(store.dir, 'rootfs'), join(store.dir, 'volume')];
    for (const path of [target, volume, join(store.dir, 'c')]) await mkdir(path);
    await store.storage.createRootfs(join(store.dir, 'c'));
    await withUserns(async (userns) => {
      await store.storage.mountRootfs(id, join(store.dir, 'c'), target, { userns });
      await store.storage.mountImage(id, volume, { userns });
    });
    try {
      for (const path of [target, volume]) {
        expect(statSync(path)).toMatchObject({ uid: 200_000, gid: 200_000 });
        expect(await readdir(path)).toHaveLength(count);
        if (count > 0) expect(statSync(join(path, 'f0'))).toMatchObject({ uid: 200_007, gid: 200_008 });
      }
      expect(await readdir(join(store.root, 'mapped'))).toEqual([]);
    } finally {
      for (const path of [target, volume]) await store.storage.unmountRootfs(path);
    }
    // the image itself is as it was
    expect(count === 0 ? 7 : statSync(join(store.storage.lowerDirs(id).at(-1) ?? '', 'f0')).uid).toBe(7);
  });

  test('what a daemon left that died in the middle is taken away at the next start', async () => {
    await using store = await TestStore.open();
    const left = join(store.root, 'mapped/abc');
    await mkdir(left, { recursive: true });
    mount('tmpfs', left, 'tmpfs');
    await store.reopen();
    expect(await readdir(join(store.root, 'mapped'))).toEqual([]);
  });
});

describe('read-only mounts of an image', () => {
  test('show its files to any number of users, and let nobody write', async () => {
    await using store = await TestStore.open();
    const id = await store.load(stack);
    const [first, second] = [await store.mountImage(id, 'v1'), await store.mountImage(id, 'v2')];
    expect(listing(first)).toBe(listing(await store.mount(id)));
    expect(listing(second)).toBe(listing(first));
    expect(() => writeFileSync(join(first, 'new'), '')).toThrow('EROFS');
    expect(() => readFileSync(join(first, 'dev/null'))).toThrow('EACCES'); // nodev
    await store.storage.unmountImage(first);
    await store.storage.unmountImage(first);
    expect(existsSync(join(first, 'bin'))).toBe(false);
    expect(readFileSync(join(second, 'bin/sh'), 'utf8')).toBe('new shell');
  });

  test('hide the marks of a single layer', async () => {
    await using store = await TestStore.open();
    const volume = await store.mountImage(await store.load([{ entries: [{ name: '.wh.nothing' }, { name: 'a' }] }]));
    expect(await readdir(volume)).toEqual(['a']);
  });

  test('keep the layers while they are there, through a restart and the loss of the image', async () => {
    await using store = await TestStore.open();
    const id = await store.load(stack);
    const volume = await store.mountImage(id);
    const shortNamed = await store.load(
      Array.from({ length: 30 }, (_, index) => ({ entries: [{ name: `f${index}` }] })),
      'a.com/many:1',
    );
    const rootfs = await store.mount(shortNamed);
    await store.close();
    writeFileSync(join(store.root, 'images', `${hexOf(id)}.json`), '{');
    await store.reopen();
    await store.storage.remove(shortNamed, { signal: store.signal });
    expect(store.storage.images()).toEqual([]);
    expect((await store.leftovers()).layers).toBe(33);
    expect(readFileSync(join(volume, 'bin/sh'), 'utf8')).toBe('new shell');
    expect(await readdir(rootfs)).toHaveLength(30);
    await store.storage.unmountImage(volume);
    await store.storage.unmountRootfs(rootfs);
    await store.reopen();
    expect((await store.leftovers()).layers).toBe(0);
  });
});
