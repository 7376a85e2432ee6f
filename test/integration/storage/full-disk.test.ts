import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mount, umount } from '#base/sys.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

describe('a full disk', () => {
  /** A store on a small file system of its own. */
  async function onSmallDisk(options: string, use: (store: TestStore) => Promise<void>): Promise<void> {
    await using home = await TestStore.open();
    const root = join(home.dir, 'small');
    mkdirSync(root);
    mount('tmpfs', root, 'tmpfs', 0, options);
    try {
      await using store = await TestStore.open({ root });
      await use(store);
    } finally {
      umount(root, 2);
    }
  }

  test.each([
    ['of bytes', 'size=8m', { entries: [{ name: 'big', content: Buffer.alloc(16 * 1024 * 1024) }] }],
    ['of inodes', 'size=64m,nr_inodes=300', { entries: Array.from({ length: 400 }, (_, index) => ({ name: `f${index}` })) }],
  ])('%s is said, leaves what was there, and nothing else', async (_what, options, layer) => {
    await onSmallDisk(options, async (store) => {
      const kept = await store.load([{ entries: [{ name: 'small', content: 'kept' }] }], 'a.com/kept:1');
      const before = store.storage.fsInfo();
      for (let time = 0; time < 3; time += 1) {
        await expect(store.load([layer], 'a.com/big:1')).rejects.toMatchObject({
          kind: 'resourceExhausted',
          message: expect.stringMatching(new RegExp(`^load .*: no space left below ${store.root}$`)),
        });
      }
      expect(store.storage.images().map(({ id }) => id)).toEqual([kept]);
      expect(store.storage.fsInfo()).toEqual(before);
      expect(await store.leftovers()).toEqual({ staging: [], layers: 1, blobs: 1, images: 1 });
      expect(await store.load([{ entries: [{ name: 'small', content: 'kept' }] }])).toBe(kept);
      await store.reopen();
      expect(store.storage.find('a.com/kept:1')?.id).toBe(kept);
      const findings: unknown[] = [];
      await store.storage.check({ full: true, repair: false, signal: store.signal }, (finding) => findings.push(finding));
      expect(findings).toEqual([]);
    });
  });

  test('still lets images be removed', async () => {
    await onSmallDisk('size=8m', async (store) => {
      const kept = await store.load([{ entries: [{ name: 'small', content: 'kept' }] }], 'a.com/kept:1');
      expect(() => writeFileSync(join(store.root, 'filler'), Buffer.alloc(16 * 1024 * 1024))).toThrow('ENOSPC');
      await expect(store.load([{ entries: [{ name: 'other', content: 'x'.repeat(9000) }] }])).rejects.toMatchObject({ kind: 'resourceExhausted' });
      await store.storage.remove(kept, { signal: store.signal });
      expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
    });
  });
});
