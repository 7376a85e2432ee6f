import { execFileSync } from 'node:child_process';
import { lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readXattr } from '#base/sys.ts';
import { makeImage, type TestLayer, writeLayout } from '../../fixtures/storage/image.ts';
import { TestStore } from '../../fixtures/storage/store.ts';
import { makeTar, type TestEntry } from '../../fixtures/storage/tar.ts';

const NOTHING = { staging: [], layers: 0, blobs: 0, images: 0 };

/** A layer of entries, with `change` applied to the bytes of its tar. */
function spoiled(entries: readonly TestEntry[], change: (tar: Buffer) => Buffer): TestLayer {
  return { tar: change(makeTar(entries)), compression: 'none' };
}

/** Writes the size field of the first header, and its checksum. */
function withSize(field: Buffer | string): TestLayer {
  return spoiled([{ name: 'f', content: 'x' }], (tar) => {
    tar.fill(0, 124, 136).set(Buffer.from(field as string), 124);
    tar.write('        ', 148, 'latin1');
    const sum = tar.subarray(0, 512).reduce((total, byte) => total + byte, 0);
    tar.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    return tar;
  });
}

const NEGATIVE = Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
const HUGE = Buffer.from([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);

describe('hostile layers', () => {
  let store: TestStore;
  /** Outside the store: nothing may reach it. */
  let canary: string;
  let untouched: string;
  const look = (): string => execFileSync('sh', ['-c', 'find . -printf "%p %y %m %U:%G %s %T@ %n %l\n" | sort; cat file'], { cwd: canary }).toString();
  beforeAll(async () => {
    store = await TestStore.open({ limits: { maxBytes: 1024 * 1024, maxInodes: 100 } });
    canary = join(store.dir, 'canary');
    mkdirSync(join(canary, 'dir'), { recursive: true });
    writeFileSync(join(canary, 'file'), 'untouched');
    untouched = look();
  });
  afterAll(() => store[Symbol.asyncDispose]());
  /** Climbs out of a jail that is no jail. */
  const up = (path: string): string => `${'../'.repeat(20)}${path.slice(1)}`;

  test.each<[string, () => TestLayer | TestEntry[], RegExp]>([
    ['a climbing name', () => [{ name: up(`${canary}/new`) }], /has \.\. in its path/],
    ['a climbing name behind a directory', () => [{ name: 'a/' }, { name: 'a/../../x' }], /has \.\. in its path/],
    ['nothing but a climb', () => [{ name: '..' }], /has \.\. in its path/],
    ['a name over an absolute symlink', () => [{ name: 'l', type: '2', link: canary }, { name: 'l/new' }], /leads to no directory/],
    ['a name over a climbing symlink', () => [{ name: 'l', type: '2', link: up(canary) }, { name: 'l/new' }], /leads to no directory/],
    [
      'a directory that becomes a symlink',
      () => [{ name: 'd/' }, { name: 'd/x' }, { name: 'd', type: '2', link: canary }, { name: 'd/new' }],
      /leads to no directory/,
    ],
    [
      'a symlink over a symlink',
      () => [{ name: 'a', type: '2', link: canary }, { name: 'b', type: '2', link: 'a' }, { name: 'b/dir/new' }],
      /leads to no directory/,
    ],
    ['symlinks in a circle', () => [{ name: 'a', type: '2', link: 'b' }, { name: 'b', type: '2', link: 'a' }, { name: 'a/new' }], /leads to no directory/],
    ['a hard link to an absolute name', () => [{ name: 'h', type: '1', link: join(canary, 'file') }], /which is not there/],
    ['a hard link that climbs', () => [{ name: 'h', type: '1', link: up(join(canary, 'file')) }], /has \.\. in its path/],
    [
      'a hard link over a symlink',
      () => [
        { name: 'l', type: '2', link: canary },
        { name: 'h', type: '1', link: 'l/file' },
      ],
      /which is not there/,
    ],
    ['a hard link to a directory', () => [{ name: 'd/' }, { name: 'h', type: '1', link: 'd' }], /hard link to the directory/],
    ['a whiteout of the parent', () => [{ name: 'd/.wh...' }], /whiteout .* of nothing/],
    ['a whiteout of the directory', () => [{ name: 'd/.wh..' }], /whiteout .* of nothing/],
    ['a whiteout without a name', () => [{ name: '.wh.' }], /whiteout .* of nothing/],
    ['a whiteout over a symlink', () => [{ name: 'l', type: '2', link: canary }, { name: 'l/.wh.file' }], /leads to no directory/],
    ['an opaque mark over a symlink', () => [{ name: 'l', type: '2', link: canary }, { name: 'l/.wh..wh..opq' }], /leads to no directory/],
    ['a device that is a whiteout', () => [{ name: 'w', type: '3', major: 0, minor: 0 }], /character device 0:0/],
    ['a sparse file of old', () => [{ name: 's', type: 'S' }], /is a sparse file/],
    ['a sparse file of POSIX', () => [{ name: 's', pax: { 'GNU.sparse.major': '1' } }], /is a sparse file/],
    ['a multi-volume entry', () => [{ name: 'm', type: 'M' }], /unknown type "M"/],
    ['a part of a name that is too long', () => [{ name: 'x', pax: { path: 'n'.repeat(256) } }], /cannot be made: ENAMETOOLONG/],
    ['a name that is too long', () => [{ name: 'x', pax: { path: 'd/'.repeat(2100) } }], /cannot be made: ENAMETOOLONG|more than 100 files/],
    ['a symlink target that is too long', () => [{ name: 'l', type: '2', pax: { linkpath: 'x'.repeat(5000) } }], /cannot be made: ENAMETOOLONG/],
    ['a NUL in a name', () => [{ name: 'x', pax: { path: 'a\0b' } }], /NUL in its name/],
    ['a negative owner', () => [{ name: 'x', pax: { uid: '-1' } }], /owned by -1/],
    ['an owner that is no number', () => [{ name: 'x', pax: { gid: '0x10' } }], /pax header with the gid "0x10"/],
    ['a negative size', () => withSize(NEGATIVE), /with the size -/],
    ['a huge size', () => withSize(HUGE), /with the size 18446744073709/],
    ['more than it has', () => withSize('77777777777'), /larger than|ends within an entry/],
    ['a negative size of pax', () => [{ name: 'x', pax: { size: '-512' } }], /with the size -512/],
    ['a size that is no number', () => [{ name: 'x', pax: { size: '1e3' } }], /pax header with the size "1e3"/],
    ['a pax header that claims too much', () => [{ name: 'p', type: 'x', content: '99 path=x\n' }, { name: 'x' }], /broken pax header/],
    ['a pax header too large', () => [{ name: 'p', type: 'x', content: Buffer.alloc(1024 * 1024 + 1, 'x') }], /extension header of 1048577 bytes/],
    ['a pax header and nothing after', () => [{ name: 'p', type: 'x', content: '10 path=x\n' }], /ends within an entry/],
    ['an end within a header', () => spoiled([{ name: 'a' }], (tar) => tar.subarray(0, 300)), /ends within an entry/],
    ['an end within a file', () => spoiled([{ name: 'a', content: 'x'.repeat(2000) }], (tar) => tar.subarray(0, 1000)), /ends within an entry/],
    ['a wrong checksum', () => spoiled([{ name: 'a' }], (tar) => Buffer.concat([Buffer.from('b'), tar.subarray(1)])), /wrong checksum/],
    ['too many bytes', () => [{ name: 'big', content: Buffer.alloc(1024 * 1024 + 1) }], /larger than 1048576 bytes/],
    ['too many bytes in many files', () => Array.from({ length: 90 }, (_, index) => ({ name: `f${index}`, content: Buffer.alloc(13_000) })), /larger than/],
    ['too many files', () => Array.from({ length: 101 }, (_, index) => ({ name: `f${index}` })), /more than 100 files/],
    ['too many whiteouts', () => Array.from({ length: 101 }, (_, index) => ({ name: `.wh.f${index}` })), /more than 100 files/],
    [
      'too many links',
      () => [{ name: 'f' }, ...Array.from({ length: 101 }, (_, index) => ({ name: `l${index}`, type: '1', link: 'f' }))],
      /more than 100 files/,
    ],
    ['too many directories', () => [{ name: 'x', pax: { path: 'd/'.repeat(101) } }], /more than 100 files/],
  ])('with %s are refused, and nothing is left or touched', async (_what, make, why) => {
    const made = make();
    await expect(store.load([Array.isArray(made) ? { entries: made } : made])).rejects.toThrow(why);
    expect(await store.leftovers()).toEqual(NOTHING);
    expect(look()).toBe(untouched);
  });

  test.each<[string, (blob: Buffer) => Buffer, RegExp]>([
    ['cut short', (blob) => blob.subarray(0, blob.length - 20), /compressed layer is damaged/],
    ['with a flipped bit', (blob) => Buffer.from(blob.map((byte, index) => (index === 60 ? byte ^ 1 : byte))), /damaged|digest|checksum/],
    ['of zeroes without end', () => gzipSync(Buffer.alloc(64 * 1024 * 1024)), /digest/],
  ])('compressed ones %s are refused', async (_what, change, why) => {
    // The blob as such is what the manifest says: it is the content that is wrong.
    const image = makeImage([{ entries: [{ name: 'a', content: 'x'.repeat(5000) }] }]);
    const spoiledImage = respell(image, change);
    const layout = join(store.dir, `layout-${Math.random()}`);
    await writeLayout(layout, [{ image: spoiledImage }]);
    await expect(store.storage.load(layout, { signal: store.signal })).rejects.toThrow(why);
    expect(await store.leftovers()).toEqual(NOTHING);
  });

  test('with attributes of overlayfs lose those', async () => {
    const pax = { 'SCHILY.xattr.trusted.overlay.redirect': '/etc', 'SCHILY.xattr.trusted.overlay.opaque': 'y', 'SCHILY.xattr.security.selinux': 'x' };
    const id = await store.load([
      {
        entries: [
          { name: 'd/', pax },
          { name: 'f', pax: { 'SCHILY.xattr.trusted.overlay.metacopy': '' } },
        ],
      },
    ]);
    const [dir = ''] = store.storage.lowerDirs(id);
    for (const name of ['trusted.overlay.redirect', 'trusted.overlay.opaque']) expect(readXattr(join(dir, 'd'), name)).toBeUndefined();
    expect(readXattr(join(dir, 'f'), 'trusted.overlay.metacopy')).toBeUndefined();
    await store.storage.remove(id, { signal: store.signal });
  });
});

/** An image whose only layer has other bytes, with a manifest that agrees. */
function respell(image: ReturnType<typeof makeImage>, change: (blob: Buffer) => Buffer): ReturnType<typeof makeImage> {
  const [digest] = image.layerDigests;
  const blob = change(image.blobs.get(digest as never) as Buffer);
  const { layerDigests, blobs } = makeImage([{ tar: blob, compression: 'none' }]);
  const manifest = JSON.parse(image.manifest.toString());
  manifest.layers = [{ mediaType: manifest.layers[0].mediaType, digest: layerDigests[0], size: blob.length }];
  const text = Buffer.from(JSON.stringify(manifest));
  const all = new Map([...image.blobs, ...blobs]);
  return { ...image, manifest: text, digest: digestOfBuffer(text), blobs: all, layerDigests };
}

function digestOfBuffer(data: Buffer): never {
  return `sha256:${execFileSync('sha256sum', { input: data }).toString().slice(0, 64)}` as never;
}

describe('odd layers that are in order', () => {
  test('come out as umoci unpacks them', async () => {
    await using store = await TestStore.open();
    const deep = `${'deep-directory-with-a-long-name/'.repeat(100)}file`;
    const first: TestEntry[] = [
      { name: './', mode: 0o755 },
      { name: 'bin/', mode: 0o755 },
      { name: 'bin/tool', content: 'tool', mode: 0o4755 },
      { name: 'bin/second', type: '1', link: 'bin/tool' },
      { name: '/usr//./lib/lib.so', content: 'elf' },
      { name: 'lib', type: '2', link: 'usr/lib' },
      { name: 'lib/over-a-symlink', content: 'x' },
      { name: 'dangling', type: '2', link: '/no/such/file' },
      { name: 'etc/', mode: 0o700, uid: 7, gid: 8 },
      { name: 'etc/passwd', content: 'root', mode: 0o600 },
      { name: 'dir-to-link/x', content: 'x' },
      { name: 'link-to-dir', type: '2', link: 'etc' },
      { name: 'file-to-dir', content: 'x' },
      { name: 'dir-to-file/y', content: 'y' },
      { name: 'twice', content: 'first' },
      { name: 'twice', content: 'second', mode: 0o640 },
      { name: 'x', pax: { path: deep }, content: 'deep' },
      { name: 'caf\xe9', content: 'not UTF-8' },
      { name: 'line\nbreak and blank', content: 'odd' },
      { name: 'big-owner', content: '', pax: { uid: '4000000000', gid: '3000000' } },
      { name: 'old', content: 'old', mtime: 0 },
      { name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 },
      { name: 'pipe', type: '6' },
      { name: 'opaque/lower', content: '' },
      { name: 'hidden/a', content: '' },
      { name: 'hidden/b/c', content: '' },
    ];
    const second: TestEntry[] = [
      { name: 'dir-to-link', type: '2', link: 'bin' },
      { name: 'link-to-dir/', mode: 0o750 },
      { name: 'link-to-dir/new', content: 'n' },
      { name: 'file-to-dir/' },
      { name: 'file-to-dir/z', content: 'z' },
      { name: 'dir-to-file', content: 'now a file' },
      { name: 'etc/shadow', content: 'in an implied directory' },
      { name: 'lib/second', content: 'over a symlink of the lower layer' },
      { name: 'hard', type: '1', link: 'bin/tool' },
      { name: 'opaque/' },
      { name: 'opaque/.wh..wh..opq' },
      { name: 'opaque/upper', content: '' },
      { name: 'hidden/.wh.a' },
      { name: '.wh.pipe' },
    ];
    const image = makeImage([{ entries: first }, { entries: second }]);
    const layout = join(store.dir, 'layout');
    await writeLayout(layout, [{ image, name: 'v1' }]);
    const [loaded] = await store.storage.load(layout, { signal: store.signal });
    execFileSync('umoci', ['raw', 'unpack', '--image', `${layout}:v1`, join(store.dir, 'umoci')], { stdio: 'pipe' });
    expect(listing(await store.mount(loaded?.id as never))).toEqual(listing(join(store.dir, 'umoci')));
    const findings: unknown[] = [];
    await store.storage.check({ full: true, repair: false, signal: store.signal }, (finding) => findings.push(finding));
    expect(findings).toEqual([]);
  });

  test('may have names of 4,000 characters, and entries older than 1970 or far from now', async () => {
    await using store = await TestStore.open();
    const long = Array.from({ length: 16 }, (_, index) => String.fromCharCode(97 + index).repeat(249)).join('/');
    expect(long.length).toBeGreaterThan(3990);
    const layer: TestEntry[] = [
      { name: 'x', pax: { path: long }, content: 'long' },
      { name: 'l', type: '2', pax: { linkpath: long } },
      { name: 'h', type: '1', pax: { linkpath: long } },
      { name: 'early', pax: { mtime: '-1000.5' } },
      { name: 'late', pax: { mtime: '99999999999999999999' } },
    ];
    const id = await store.load([{ entries: [{ name: 'd/', pax: { path: `${'a'.repeat(249)}/` }, mode: 0o711 }] }, { entries: layer }]);
    const [dir = ''] = store.storage.lowerDirs(id);
    expect(lstatSync(join(dir, 'a'.repeat(249))).mode & 0o777).toBe(0o711);
    const findings: unknown[] = [];
    await store.storage.check({ full: true, repair: false, signal: store.signal }, (finding) => findings.push(finding));
    expect(findings).toEqual([]);
    expect(readFileSync(join(dir, 'h'), 'utf8')).toBe('long');
    expect(lstatSync(join(dir, 'l')).size).toBe(long.length);
    expect(lstatSync(join(dir, 'early')).mtimeMs).toBe(-1_000_500);
    expect(lstatSync(join(dir, 'late')).mtimeMs).toBeGreaterThan(4e12);
    await store.storage.remove(id, { signal: store.signal }); // what the test itself could not
  });
});

/** Every entry with type, mode, owner, size, links, time, target and content; directories without times, which depend on the tool. */
function listing(root: string): string[] {
  const find = (...expression: string[]): string[] =>
    execFileSync('find', ['.', '-mindepth', '1', ...expression], { cwd: root })
      .toString('latin1')
      .split('\0');
  const sums = execFileSync('sh', ['-c', 'find . -type f -print0 | xargs -0 sha256sum -z'], { cwd: root }).toString('latin1').split('\0');
  return [...find('-type', 'd', '-printf', '%p %y %m %U:%G\\0'), ...find('!', '-type', 'd', '-printf', '%p %y %m %U:%G %s %T@ %l\\0'), ...sums].sort();
}
