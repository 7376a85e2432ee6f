import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sleep } from '#base/abort.ts';
import type { TestLayer } from '../../fixtures/storage/image.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const REMOVER = join(import.meta.dirname, '../../fixtures/storage/remover.ts');
const KILLS = 40;
const IMAGES = 24;

const files = (prefix: string, count: number): TestLayer => ({
  entries: Array.from({ length: count }, (_, index) => ({ name: `${prefix}/f${index}`, content: `${prefix} ${index}` })),
});

/** Images that share one layer, and in pairs another. */
async function fill(store: TestStore): Promise<void> {
  for (let index = 0; index < IMAGES; index += 1) {
    await store.load([files('base', 30), files(`pair${index >> 1}`, 10), files(`own${index}`, 40)], `a.com/image:${index}`);
  }
}

/** Kills a remover that has said `word`, after so many milliseconds, unless it is done by then. */
async function killAfter(root: string, word: string, ms: number, seed: number): Promise<void> {
  const child = spawn(process.execPath, [REMOVER, root, String(seed)], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  await said(child, word);
  await Promise.race([sleep(ms), ended]);
  child.kill('SIGKILL');
  await ended;
}

function said(child: ChildProcess, word: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout?.on('data', (data) => {
      text += data;
      if (text.includes(word)) resolve();
    });
    child.once('exit', () => (text.includes(word) ? resolve() : reject(new Error(`ended without saying ${word}`))));
  });
}

/** What the disk says, without a store: every image that is listed has its config and its layers in their places. */
function listed(root: string): number {
  const layers = new Set(readdirSync(join(root, 'layers')));
  const blobs = new Set(readdirSync(join(root, 'blobs')));
  const records = readdirSync(join(root, 'images')).map((name) => JSON.parse(readFileSync(join(root, 'images', name), 'utf8')));
  for (const record of records) {
    expect(blobs).toContain(record.id.slice('sha256:'.length));
    for (const layer of record.layers) expect(layers).toContain(layer.slice('sha256:'.length));
  }
  return records.length;
}

test('a store that is killed while it opens, removes and frees is sound, and goes on where it was', { timeout: 300_000 }, async () => {
  await using store = await TestStore.open();
  await fill(store);
  await store.close();
  let before = IMAGES;
  let partly = 0;
  for (let kill = 0; kill < KILLS; kill += 1) {
    // The first ones die while they open, after which layers of images that are gone are freed.
    await killAfter(store.root, kill % 4 === 0 ? 'opening' : 'removing', Math.random() * 25, kill * 7);
    const left = listed(store.root);
    expect(left).toBeLessThanOrEqual(before);
    if (left < before && left > 0) partly += 1;
    before = left;
    if (left > 2) continue;
    await store.reopen();
    expect(store.storage.images()).toHaveLength(left);
    await fill(store); // what was whole is used again, what was half gone is made again
    const findings: unknown[] = [];
    const { layers } = await store.storage.check({ full: true, repair: false, signal: store.signal }, (finding) => findings.push(finding));
    expect(findings).toEqual([]);
    expect(layers).toBe(1 + IMAGES / 2 + IMAGES);
    before = IMAGES;
    await store.close();
  }
  expect(partly).toBeGreaterThan(0);
  await store.reopen();
  for (const { id } of store.storage.images()) await store.storage.remove(id, { signal: store.signal });
  expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
  await expect.poll(() => readdirSync(join(store.root, 'trash'))).toEqual([]);
});
