import { chmodSync, chownSync, existsSync, readFileSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { lsetxattr, mknod, S_IF } from '#base/sys.ts';
import { checkStore } from '../../../storage/check.ts';
import { type ChainId, hexOf } from '../../../storage/digest.ts';
import type { VerifyResult } from '../../../storage/jobs.ts';
import type { CheckFinding, CheckSummary, ImageId } from '../../../storage/storage.ts';
import type { TestLayer } from '../../fixtures/storage/image.ts';
import { openParts, planOf } from '../../fixtures/storage/parts.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const shared: TestLayer = {
  entries: [
    { name: 'bin/', mode: 0o755 },
    { name: 'bin/a', content: 'a'.repeat(300_000), mode: 0o4755, uid: 3, pax: { 'SCHILY.xattr.user.note': 'v'.repeat(1_000) } },
    { name: 'bin/b', type: '1', link: 'bin/a' },
    { name: 'caf\xe9/\xff', content: 'bytes' },
    { name: 'lib', type: '2', link: 'bin' },
    { name: 'lib/through', content: 'by the symlink' },
    { name: 'twice', content: 'first' },
    { name: 'twice', content: 'second' },
    { name: 'was-dir/x', content: '' },
    { name: 'was-dir', content: 'now a file' },
    { name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 },
    { name: 'pipe', type: '6' },
    { name: 'deep/er/file', content: '' },
  ],
};
const upper: TestLayer = {
  entries: [{ name: '.wh.twice' }, { name: 'deep/.wh..wh..opq' }, { name: 'deep/new', content: 'n' }, { name: 'null/', mode: 0o700 }],
};
/** Needs the layers below it, so it is unpacked over a mount of them. */
const merged: TestLayer = {
  entries: [
    { name: 'link', type: '1', link: 'bin/a' },
    { name: 'lib/merged', content: 'm' },
    { name: 'deep/', mode: 0o711 },
    { name: 'deep/.wh..wh..opq' },
    { name: '.wh.pipe' },
  ],
};

async function check(store: TestStore, { full = false, repair = false } = {}): Promise<{ findings: CheckFinding[]; summary: CheckSummary }> {
  const findings: CheckFinding[] = [];
  const summary = await store.storage.check({ full, repair, signal: store.signal }, (finding) => findings.push(finding));
  expect(summary.findings).toBe(findings.length);
  return { findings, summary };
}

function layerDir(store: TestStore, image: ImageId, index: number): string {
  const chainId = store.storage.find(image)?.layers[index];
  return join(store.root, 'layers', hexOf(chainId as never));
}

describe('check()', () => {
  test.each([false, true])('finds nothing in a sound store, whatever its layers did (full: %s)', async (full) => {
    await using store = await TestStore.open();
    await store.load([shared, upper, merged], 'a.com/all:1');
    await store.load([shared], 'a.com/one:1');
    await store.load([], 'a.com/none:1');
    expect(await check(store, { full })).toEqual({ findings: [], summary: { layers: 3, images: 3, findings: 0, removedImages: [] } });
    await store.reopen();
    expect((await check(store, { full })).findings).toEqual([]);
  });

  test.each<[string, 'missing' | 'altered' | 'damaged', string, (dir: string) => void]>([
    ['a lost directory', 'missing', 'its directory is gone', (dir) => rmSync(join(dir, 'diff'), { recursive: true })],
    ['a lost file', 'missing', '"bin/through" is gone', (dir) => unlinkSync(join(dir, 'diff/bin/through'))],
    ['a file cut short', 'altered', '"twice" has 0 bytes, not 6', (dir) => writeFileSync(join(dir, 'diff/twice'), '')],
    ['a file too many', 'altered', '"bin/new" was not in the layer', (dir) => writeFileSync(join(dir, 'diff/bin/new'), '')],
    ['another mode', 'altered', '"bin/a" has the mode 755, not 4755', (dir) => chmodSync(join(dir, 'diff/bin/a'), 0o755)],
    ['another owner', 'altered', '"bin" belongs to 1:0, not to 0:0', (dir) => chownSync(join(dir, 'diff/bin'), 1, 0)],
    [
      'another link',
      'altered',
      '"lib" leads to "etc", not to "bin"',
      (dir) => {
        unlinkSync(join(dir, 'diff/lib'));
        symlinkSync('etc', join(dir, 'diff/lib'));
      },
    ],
    [
      'a hard link broken',
      'altered',
      '"bin/b" is no longer the hard link',
      (dir) => {
        const content = readFileSync(join(dir, 'diff/bin/b'));
        unlinkSync(join(dir, 'diff/bin/b'));
        writeFileSync(join(dir, 'diff/bin/b'), content);
      },
    ],
    [
      'another type',
      'altered',
      '"pipe" is another device',
      (dir) => {
        unlinkSync(join(dir, 'diff/pipe'));
        mknod(join(dir, 'diff/pipe'), S_IF.CHR | 0o644, 5n);
      },
    ],
    ['another attribute', 'altered', 'another value of the attribute user.note', (dir) => lsetxattr(join(dir, 'diff/bin/a'), 'user.note', Buffer.from('w'))],
    ['no list', 'damaged', 'the list of its files is gone', (dir) => unlinkSync(join(dir, 'entries'))],
    ['a list cut short', 'damaged', 'the list of its files is damaged', (dir) => writeFileSync(join(dir, 'entries'), '["end"]\n')],
    ['a damaged record', 'damaged', 'its layer.json cannot be used', (dir) => writeFileSync(join(dir, 'layer.json'), '{')],
  ])('finds %s, and names the images it costs', async (_what, kind, message, damage) => {
    await using store = await TestStore.open();
    const one = await store.load([shared], 'a.com/one:1');
    await store.load([shared, upper], 'a.com/two:1');
    await store.load([upper], 'a.com/sound:1');
    damage(layerDir(store, one, 0));
    const { findings } = await check(store);
    const expected = { kind, what: 'layer', id: store.storage.find(one)?.layers[0], images: ['a.com/one:1', 'a.com/two:1'], repaired: false };
    expect(findings).toMatchObject([{ ...expected, message: expect.stringContaining(message) }]);
    expect(store.storage.images()).toHaveLength(3);
  });

  test('finds other content of the same size with full only', async () => {
    await using store = await TestStore.open();
    const id = await store.load([shared, merged], 'a.com/one:1');
    writeFileSync(join(layerDir(store, id, 0), 'diff/bin/a'), 'b'.repeat(300_000));
    chmodSync(join(layerDir(store, id, 0), 'diff/bin/a'), 0o4755); // writing took the setuid bit
    writeFileSync(join(layerDir(store, id, 1), 'diff/bin/merged'), 'x');
    expect((await check(store)).findings).toEqual([]);
    expect((await check(store, { full: true })).findings).toMatchObject([
      { kind: 'altered', message: '"bin/a" has other content' },
      { kind: 'altered', message: '"bin/merged" has other content' },
    ]);
  });

  test('counts what else is wrong with a layer', async () => {
    await using store = await TestStore.open();
    const id = await store.load([shared], 'a.com/one:1');
    for (const name of ['bin/a', 'twice', 'lib']) unlinkSync(join(layerDir(store, id, 0), 'diff', name));
    const { findings } = await check(store);
    expect(findings).toMatchObject([{ kind: 'missing', message: '"bin/a" is gone, and 2 more' }]);
  });

  test('repairs by removing the images of a bad layer and nothing else; the next pull brings them anew', async () => {
    await using store = await TestStore.open();
    const one = await store.load([shared], 'a.com/one:1');
    const two = await store.load([shared, upper], 'a.com/two:1');
    const sound = await store.load([upper], 'a.com/sound:1');
    unlinkSync(join(layerDir(store, one, 0), 'diff/bin/a'));
    const { findings, summary } = await check(store, { repair: true });
    expect(findings).toMatchObject([{ what: 'layer', repaired: true, images: ['a.com/one:1', 'a.com/two:1'] }]);
    expect(summary).toEqual({ layers: 3, images: 3, findings: 1, removedImages: ['a.com/one:1', 'a.com/two:1'] });
    expect(store.storage.images().map(({ id }) => id)).toEqual([sound]);
    expect(await store.leftovers()).toEqual({ staging: [], layers: 1, blobs: 1, images: 1 });
    expect(await store.load([shared, upper], 'a.com/two:1')).toBe(two);
    expect((await check(store, { full: true })).findings).toEqual([]);
  });

  test('repairs nothing that somebody uses, and says who', async () => {
    const users = new Map<string, string>();
    await using store = await TestStore.open({ usedBy: (image) => users.get(image) });
    await store.load([shared], 'a.com/one:1');
    const two = await store.load([shared, upper], 'a.com/two:1');
    users.set(two, 'container c1');
    unlinkSync(join(layerDir(store, two, 0), 'diff/twice'));
    const { findings, summary } = await check(store, { repair: true });
    expect(findings).toMatchObject([{ repaired: false, message: '"twice" is gone; not repaired, since container c1 uses it' }]);
    expect(summary.removedImages).toEqual([]);
    users.clear();
    const target = await store.mount(two);
    expect((await check(store, { repair: true })).findings).toMatchObject([{ repaired: false, message: expect.stringContaining('since it is mounted') }]);
    await store.storage.unmountRootfs(target);
    expect((await check(store, { repair: true })).findings).toMatchObject([{ repaired: true }]);
    expect(store.storage.images()).toEqual([]);
  });

  test('finds what the store has of an image damaged, and orphans', async () => {
    await using store = await TestStore.open();
    const record = await store.load([shared], 'a.com/record:1');
    const config = await store.load([upper], 'a.com/config:1');
    const lost = await store.load([merged.entries?.[2] ? { entries: [merged.entries[2]] } : {}], 'a.com/lost:1');
    writeFileSync(join(store.root, 'images', `${hexOf(record)}.json`), '{');
    writeFileSync(join(store.root, 'blobs', hexOf(config)), '{}');
    unlinkSync(join(store.root, 'blobs', hexOf(lost)));
    await mkdir(join(store.root, 'layers', '0'.repeat(64), 'diff'), { recursive: true });
    await writeFile(join(store.root, 'blobs', 'f'.repeat(64)), 'orphan');
    await writeFile(join(store.root, 'images', '.torn.json.1.tmp'), '{');
    const expected = [
      { kind: 'damaged', what: 'image', id: record, images: [] },
      { kind: 'altered', what: 'image', id: config, images: ['a.com/config:1'] },
      { kind: 'missing', what: 'image', id: lost, images: ['a.com/lost:1'] },
      { kind: 'orphaned', what: 'layer', id: `layers/${'0'.repeat(64)}`, images: [] },
      { kind: 'orphaned', what: 'image', id: `blobs/${'f'.repeat(64)}`, images: [] },
      { kind: 'orphaned', what: 'image', id: 'images/.torn.json.1.tmp', images: [] },
    ];
    expect((await check(store)).findings).toMatchObject(expected.map((finding) => ({ ...finding, repaired: false })));
    expect((await check(store, { repair: true })).findings).toMatchObject(expected.map((finding) => ({ ...finding, repaired: true })));
    expect((await check(store)).findings).toEqual([]);
    await store.reopen();
    expect(store.storage.images().map(({ id }) => id)).toEqual([record]);
    expect(await store.leftovers()).toEqual({ staging: [], layers: 1, blobs: 1, images: 1 });
  });

  test('leaves alone the config of an image that is just being written', async () => {
    await using store = await TestStore.open();
    const id = await store.load([shared]);
    await store.close();
    await using parts = await openParts(store.root);
    const config = parts.images.configPath(id);
    await parts.images.delete(id);
    await writeFile(join(store.root, 'blobs', `.${hexOf(id)}.1.1.tmp`), '{}');
    // whoever makes an image holds its lock, and is done when the check gets it
    const acquire = async (asked: string, signal: AbortSignal): Promise<AsyncDisposable> => {
      if (asked === id) renameSync(join(store.root, 'blobs', `.${hexOf(id)}.1.1.tmp`), config);
      return parts.locks.acquire(asked, signal);
    };
    const findings: CheckFinding[] = [];
    const run = async (): Promise<VerifyResult> => ({ problem: undefined, count: 0 });
    const deps = { ...parts, locks: { acquire } as never, checkers: { run } as never, usedBy: () => undefined };
    await checkStore(deps, { full: false, repair: true, signal: store.signal }, (found) => findings.push(found));
    expect(findings).toEqual([]);
  });

  test('makes a bad layer that is wanted meanwhile anew, rather than taking it from its new image', async () => {
    await using store = await TestStore.open();
    const id = await store.load([shared]);
    const chainId = store.storage.find(id)?.layers[0] as ChainId;
    await store.close();
    await using parts = await openParts(store.root);
    const wanted: Promise<void>[] = [];
    const remove = async (image: ImageId): Promise<void> => {
      await parts.images.delete(image);
      parts.layers.hold([chainId]); // as a pull does
      wanted.push(parts.layers.ensure(planOf(chainId), store.signal));
    };
    const images = new Proxy(parts.images, {
      get: (target, key) => {
        const value: unknown = key === 'delete' ? remove : Reflect.get(target, key, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const run = async (): Promise<VerifyResult> => ({ problem: { kind: 'altered', message: 'is bad' }, count: 1 });
    const findings: CheckFinding[] = [];
    const deps = { ...parts, images, checkers: { run } as never, usedBy: () => undefined };
    await checkStore(deps, { full: false, repair: true, signal: store.signal }, (found) => findings.push(found));
    await Promise.all(wanted);
    expect(findings).toMatchObject([{ what: 'layer', repaired: true }]);
    expect(parts.layers.has(chainId)).toBe(true);
    expect(existsSync(join(store.root, 'layers', hexOf(chainId), 'diff'))).toBe(true);
  });

  test('leaves alone what is being loaded, mounted and removed meanwhile', async () => {
    await using store = await TestStore.open();
    const kept = await store.load([shared, upper], 'a.com/kept:1');
    const gone = await store.load([shared, { entries: [{ name: 'gone' }] }], 'a.com/gone:1');
    const [result] = await Promise.all([
      check(store, { full: true, repair: true }),
      store.load([shared, merged], 'a.com/new:1'),
      store.mount(kept),
      store.storage.remove(gone, { signal: store.signal }),
    ]);
    expect(result.findings).toEqual([]);
    expect(store.storage.images().map(({ repoTags }) => repoTags[0])).toEqual(['a.com/kept:1', 'a.com/new:1']);
    expect((await check(store, { full: true })).findings).toEqual([]);
    expect(await store.leftovers()).toMatchObject({ staging: [], layers: 3 });
  });
});
