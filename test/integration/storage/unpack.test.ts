import { execFileSync } from 'node:child_process';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readXattr } from '#base/sys.ts';
import type { TestLayer } from '../../fixtures/storage/image.ts';
import { TestStore } from '../../fixtures/storage/store.ts';
import type { TestEntry } from '../../fixtures/storage/tar.ts';

const layers = (...all: TestEntry[][]): TestLayer[] => all.map((entries) => ({ entries }));

/** Loads the layers and mounts them. */
async function mounted(store: TestStore, stack: readonly TestLayer[]): Promise<string> {
  return store.mount(await store.load(stack));
}

describe('unpacking a layer', () => {
  test('keeps types, modes, owners, times, links and attributes', async () => {
    await using store = await TestStore.open();
    const root = await mounted(
      store,
      layers([
        { name: './', mode: 0o711 },
        { name: 'bin/', mode: 0o2755, uid: 5, gid: 6, mtime: 77 },
        { name: 'bin/su', content: 'x'.repeat(5000), mode: 0o4755, uid: 1, gid: 2, mtime: 42 },
        { name: 'bin/sudo', type: '1', link: 'bin/su' },
        { name: 'bin/sh', type: '2', link: '/bin/su', uid: 3, mtime: 43 },
        { name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 },
        { name: 'disk', type: '4', major: 259, minor: 300, mode: 0o660, gid: 6 },
        { name: 'pipe', type: '6', mode: 0o622 },
        {
          name: 'cap',
          pax: { 'SCHILY.xattr.user.note': 'hi', 'SCHILY.xattr.trusted.overlay.redirect': '/etc', 'SCHILY.xattr.security.capability': CAPABILITY },
        },
        { name: 'caf\xe9/\xff', content: 'bytes' },
        { name: '/abs//path/./file', content: 'clean' },
      ]),
    );
    const stat = (path: string) => lstatSync(join(root, path));
    expect(stat('.').mode & 0o7777).toBe(0o711);
    expect(stat('bin')).toMatchObject({ uid: 5, gid: 6, mtimeMs: 77_000 });
    expect(stat('bin').mode & 0o7777).toBe(0o2755);
    expect(stat('bin/su')).toMatchObject({ uid: 1, gid: 2, size: 5000, mtimeMs: 42_000, nlink: 2 });
    expect(stat('bin/su').mode & 0o7777).toBe(0o4755);
    expect(stat('bin/sudo').ino).toBe(stat('bin/su').ino);
    expect(readlinkSync(join(root, 'bin/sh'))).toBe('/bin/su');
    expect(stat('bin/sh')).toMatchObject({ uid: 3, mtimeMs: 43_000 });
    expect(stat('null').rdev).toBe(0x103);
    expect(stat('null').mode).toBe(0o020666);
    expect(execFileSync('stat', ['-c', '%Hr:%Lr %F', join(root, 'disk')]).toString()).toBe('259:300 block special file\n');
    expect(stat('pipe').isFIFO()).toBe(true);
    const cap = join(store.storage.lowerDirs(store.storage.images()[0]?.id as never)[0] as string, 'cap');
    expect(readXattr(cap, 'user.note')?.toString()).toBe('hi');
    expect(readXattr(cap, 'security.capability')).toEqual(CAPABILITY);
    expect(readXattr(cap, 'trusted.overlay.redirect')).toBeUndefined();
    const odd = Buffer.concat([Buffer.from(`${root}/caf`), Buffer.from([0xe9, 0x2f, 0xff])]);
    expect(readFileSync(odd, 'utf8')).toBe('bytes');
    expect(readFileSync(join(root, 'abs/path/file'), 'utf8')).toBe('clean');
  });

  test.each(['none', 'gzip', 'zstd'] as const)('inflates %s', async (compression) => {
    await using store = await TestStore.open();
    const content = Buffer.alloc(300_000, 'abc');
    const root = await mounted(store, [{ entries: [{ name: 'f', content }], compression }]);
    expect(readFileSync(join(root, 'f')).equals(content)).toBe(true);
  });

  test('takes the last of several entries of one name, whatever they are', async () => {
    await using store = await TestStore.open();
    const root = await mounted(
      store,
      layers([
        { name: 'a', content: 'one' },
        { name: 'a', content: 'two' },
        { name: 'd/x', content: '' },
        { name: 'd', type: '2', link: 'a' },
        { name: 'e', content: '' },
        { name: 'e/', mode: 0o700 },
        { name: 'e/y', content: '' },
        { name: 'l', type: '2', link: 'e' },
        { name: 'l/through', content: '' },
        { name: 'l/' },
        { name: 'l/inside', content: '' },
      ]),
    );
    expect(readFileSync(join(root, 'a'), 'utf8')).toBe('two');
    expect(lstatSync(join(root, 'd')).isSymbolicLink()).toBe(true);
    expect(readdirSync(join(root, 'e')).sort()).toEqual(['through', 'y']);
    expect(readdirSync(join(root, 'l'))).toEqual(['inside']);
  });
});

describe('whiteouts', () => {
  const below: TestEntry[] = [
    { name: 'a', content: 'a' },
    { name: 'd/', mode: 0o700 },
    { name: 'd/x', content: 'x' },
    { name: 'd/y', content: 'y' },
    { name: 'k/keep', content: '' },
  ];
  const list = (root: string): string[] => readdirSync(root, { recursive: true, encoding: 'utf8' }).sort();

  test.each<[string, TestEntry[], string[]]>([
    ['a file', [{ name: '.wh.a' }], ['d', 'd/x', 'd/y', 'k', 'k/keep']],
    ['a directory', [{ name: '.wh.d' }], ['a', 'k', 'k/keep']],
    ['what is not there', [{ name: '.wh.none' }], ['a', 'd', 'd/x', 'd/y', 'k', 'k/keep']],
    ['all of a directory, before its new content', [{ name: 'd/' }, { name: 'd/.wh..wh..opq' }, { name: 'd/z' }], ['a', 'd', 'd/z', 'k', 'k/keep']],
    ['all of a directory, after its new content', [{ name: 'd/z' }, { name: 'd/.wh..wh..opq' }], ['a', 'd', 'd/z', 'k', 'k/keep']],
    ['everything', [{ name: '.wh..wh..opq' }, { name: 'new' }], ['new']],
    ['a directory that comes anew after it', [{ name: '.wh.d' }, { name: 'd/' }, { name: 'd/z' }], ['a', 'd', 'd/z', 'k', 'k/keep']],
    ['a directory that came anew before it', [{ name: 'd/' }, { name: 'd/z' }, { name: '.wh.d' }], ['a', 'd', 'd/z', 'k', 'k/keep']],
    ['a directory that is only implied after it', [{ name: '.wh.d' }, { name: 'd/z' }], ['a', 'd', 'd/z', 'k', 'k/keep']],
    ['a file that comes anew', [{ name: '.wh.a' }, { name: 'a', content: 'new' }], ['a', 'd', 'd/x', 'd/y', 'k', 'k/keep']],
    ['nothing for the books of aufs', [{ name: '.wh..wh.plnk' }, { name: 'd/.wh..wh.aufs' }], ['a', 'd', 'd/x', 'd/y', 'k', 'k/keep']],
  ])('hide %s', async (_what, above, expected) => {
    await using store = await TestStore.open();
    expect(list(await mounted(store, layers(below, above)))).toEqual(expected);
    // The same where the layer is unpacked over a mount, because of a link into a lower one.
    const linked: TestEntry[] = [{ name: 'k/link', type: '1', link: 'k/keep' }, ...above];
    const withLink = expected.includes('k/keep') ? [...expected, 'k/link'].sort() : expected;
    const hidesAll = above[0]?.name === '.wh..wh..opq';
    const all = list(await store.mount(await store.load(layers(below, hidesAll ? [...above, { name: 'm', type: '1', link: 'new' }] : linked)), 'c2'));
    expect(all).toEqual(hidesAll ? ['m', 'new'] : withLink);
  });
});

describe('a layer and those below', () => {
  test('an implied directory keeps mode, owner and time of the lower layer', async () => {
    await using store = await TestStore.open();
    const root = await mounted(
      store,
      layers(
        [
          { name: 'home/', mode: 0o1777, uid: 7, gid: 8, mtime: 9 },
          { name: 'home/u/', mode: 0o700, uid: 9 },
        ],
        [{ name: 'other', content: '' }],
        [{ name: 'home/u/deep/file', content: '' }],
      ),
    );
    expect(lstatSync(join(root, 'home'))).toMatchObject({ uid: 7, gid: 8, mtimeMs: 9_000 });
    expect(lstatSync(join(root, 'home')).mode & 0o7777).toBe(0o1777);
    expect(lstatSync(join(root, 'home/u'))).toMatchObject({ uid: 9 });
    expect(lstatSync(join(root, 'home/u')).mode & 0o7777).toBe(0o700);
    expect(lstatSync(join(root, 'home/u/deep')).mode & 0o7777).toBe(0o755);
  });

  test('an implied directory that a layer between has hidden is a new one', async () => {
    await using store = await TestStore.open();
    const root = await mounted(store, layers([{ name: 'd/', mode: 0o700 }, { name: 'd/x' }], [{ name: '.wh.d' }], [{ name: 'd/y' }]));
    expect(lstatSync(join(root, 'd')).mode & 0o7777).toBe(0o755);
    expect(readdirSync(join(root, 'd'))).toEqual(['y']);
  });

  test('a path over a symlink of a lower layer follows it', async () => {
    await using store = await TestStore.open();
    const root = await mounted(
      store,
      layers(
        [
          { name: 'usr/lib/a', content: '' },
          { name: 'lib', type: '2', link: 'usr/lib' },
        ],
        [{ name: 'lib/b', content: 'b' }],
      ),
    );
    expect(lstatSync(join(root, 'lib')).isSymbolicLink()).toBe(true);
    expect(readdirSync(join(root, 'usr/lib')).sort()).toEqual(['a', 'b']);
  });

  test('a path over a symlink of the same layer follows it, absolute ones within the image', async () => {
    await using store = await TestStore.open();
    const root = await mounted(
      store,
      layers(
        [{ name: 'etc/only-lower', content: '' }],
        [
          { name: 'usr/lib/' },
          { name: 'lib', type: '2', link: '/usr/lib' },
          { name: 'lib/b', content: 'b' },
          { name: 'conf', type: '2', link: '../../etc' },
          { name: 'conf/new', content: '' },
        ],
      ),
    );
    expect(readdirSync(join(root, 'usr/lib'))).toEqual(['b']);
    expect(readdirSync(join(root, 'etc')).sort()).toEqual(['new', 'only-lower']);
  });

  test('a hard link into a lower layer has its content and attributes', async () => {
    await using store = await TestStore.open();
    const root = await mounted(
      store,
      layers(
        [
          { name: 'bin/', mode: 0o711 },
          { name: 'bin/a', content: 'a', mode: 0o4711, uid: 4, mtime: 5 },
        ],
        [{ name: 'b', type: '1', link: 'bin/a' }],
      ),
    );
    expect(readFileSync(join(root, 'b'), 'utf8')).toBe('a');
    expect(lstatSync(join(root, 'b'))).toMatchObject({ uid: 4, mtimeMs: 5_000 });
    expect(lstatSync(join(root, 'b')).mode & 0o7777).toBe(0o4711);
    expect(lstatSync(join(root, 'bin')).mode & 0o7777).toBe(0o711);
  });
});

describe('a hostile layer', () => {
  test.each<[string, TestEntry[], string]>([
    ['has .. in a name', [{ name: 'a/../../x' }], 'has .. in its path'],
    ['links out by ..', [{ name: 'x', type: '1', link: '../../../etc/passwd' }], 'has .. in its path'],
    ['links to nothing', [{ name: 'x', type: '1', link: 'etc/shadow' }], 'which is not there'],
    ['has a file as a parent', [{ name: 'f' }, { name: 'f/x' }], 'is not a directory'],
    ['goes over a symlink to nowhere', [{ name: 'l', type: '2', link: '/root/nowhere' }, { name: 'l/x' }], 'leads to no directory'],
    ['links to a directory', [{ name: 'd/' }, { name: 'x', type: '1', link: 'd' }], 'hard link to the directory'],
    ['has a device that is a whiteout', [{ name: 'w', type: '3', major: 0, minor: 0 }], 'character device 0:0'],
    ['has a sparse file', [{ name: 's', type: 'S' }], 'is a sparse file'],
  ])('that %s is refused, and nothing is left', async (_what, entries, why) => {
    await using store = await TestStore.open();
    await expect(store.load(layers(entries))).rejects.toThrow(why);
    expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
  });

  test('reaches its jail only', async () => {
    await using store = await TestStore.open();
    const mark = join(store.dir, 'outside');
    const root = await mounted(
      store,
      layers([
        { name: 'esc', type: '2', link: '../../../../../../../..' },
        { name: `esc${mark}`, content: 'caught' },
      ]),
    );
    expect(readFileSync(join(root, mark), 'utf8')).toBe('caught');
    expect(() => lstatSync(mark)).toThrow('ENOENT');
  });

  test('of another diff id is refused', async () => {
    await using store = await TestStore.open();
    const lie = `sha256:${'0'.repeat(64)}` as never;
    await expect(store.load([{ entries: [{ name: 'a' }], diffId: lie }])).rejects.toThrow('layer unpacks to digest');
    expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
  });
});

/** VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective. Source: linux/capability.h. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex');
