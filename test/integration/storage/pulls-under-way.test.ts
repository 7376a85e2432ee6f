import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import type { Digest } from '../../../storage/storage.ts';
import { type FakeContent, FakeRegistry, type FakeRegistryOptions, type Fault } from '../../fakes/registry.ts';
import { contentOf, makeImage } from '../../fixtures/storage/image.ts';
import { alice, type ServedStore, serveStore } from '../../fixtures/storage/served-store.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const image = makeImage([{ entries: [{ name: 'a', content: randomBytes(400_000) }] }, { entries: [{ name: 'b', content: 'b' }], compression: 'zstd' }], {
  Cmd: ['/a'],
});
const big = image.layerDigests[0] as Digest;
const content = contentOf({ 'app:1': image });

const serve = (options: FakeRegistryOptions = {}, what: FakeContent = content): Promise<ServedStore> => serveStore(what, options);

describe('a pull that is tried again', () => {
  const whole = (image.blobs.get(big) as Buffer).length;
  const hex = big.slice('sha256:'.length);
  const blobRequests = (registry: FakeRegistry) => registry.requests.filter(({ path }) => path.includes(big)).map(({ range }) => range);

  test.each(['by the same daemon', 'by the next one'])('%s asks only for what it lacks', async (who) => {
    await using at = await serve({ fault: ({ path, count }) => (path.includes(big) && count === 1 ? 'hang' : undefined) });
    await expect(at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).rejects.toThrow('no progress');
    expect(await at.store.downloads()).toContain(hex);
    const { size } = await stat(join(at.store.root, 'downloads', hex));
    expect(size).toBeGreaterThan(0);
    expect(size).toBeLessThan(whole);
    if (who === 'by the next one') await at.store.reopen();
    await at.store.storage.pull('example.com/app:1', { signal: at.store.signal });
    expect(blobRequests(at.registry)).toEqual([undefined, `bytes=${size}-`]);
    expect(at.registry.count(image.layerDigests[1] as string)).toBe(1);
    expect(await at.store.downloads()).toEqual([]);
  });

  test('uses a blob that was whole without asking for it', async () => {
    await using at = await serve();
    await writeFile(join(at.store.root, 'downloads', hex), image.blobs.get(big) as Buffer);
    await at.store.storage.pull('example.com/app:1', { signal: at.store.signal });
    expect(blobRequests(at.registry)).toEqual([]);
    expect(await at.store.downloads()).toEqual([]);
  });

  test.each([
    ['that is wrong', Buffer.alloc(1_000, 'x')],
    ['that is too long', Buffer.alloc(whole + 1, 'x')],
    ['of which all is wrong', Buffer.alloc(whole, 'x')],
  ])('overcomes what is left there %s', async (_what, junk) => {
    await using at = await serve();
    await writeFile(join(at.store.root, 'downloads', hex), junk);
    expect((await at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).id).toBe(image.id);
    expect(blobRequests(at.registry).at(-1)).toBeUndefined();
    expect(await at.store.downloads()).toEqual([]);
  });

  test.each<[string, Fault, number]>([
    ['knows no ranges', (response, body) => void response.writeHead(200).end(body), 2],
    [
      'sends other bytes than those asked for',
      (response, body) => void response.writeHead(206, { 'content-range': `bytes 0-${body.length - 1}/*` }).end(body),
      3,
    ],
    ['refuses the range', { status: 416 }, 3],
  ])('begins anew at a registry that %s', async (_what, fault, requests) => {
    await using at = await serve({ fault: ({ path, count }) => (!path.includes(big) || count > 2 ? undefined : count === 1 ? 'hang' : fault) });
    await expect(at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).rejects.toThrow('no progress');
    expect((await at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).id).toBe(image.id);
    expect(blobRequests(at.registry)).toHaveLength(requests);
    expect(await at.store.downloads()).toEqual([]);
  });

  test('goes on at the next mirror with what the first had sent', async () => {
    await using broken = await FakeRegistry.start(content, { fault: ({ path }) => (path.includes(big) ? 'hang' : undefined) });
    await using at = await serve();
    await at.store.redirect('example.com', at.registry.host, [broken.host]);
    await at.store.storage.pull('example.com/app:1', { signal: at.store.signal });
    expect(blobRequests(at.registry)).toEqual([expect.stringMatching(/^bytes=\d+-$/)]);
  });

  test('finds nothing of what was corrupt', async () => {
    await using at = await serve({ fault: ({ path }) => (path.includes(big) ? 'corrupt' : undefined) });
    await expect(at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).rejects.toThrow('came with digest');
    expect(await at.store.downloads()).toEqual([]);
  });
});

describe('the progress of a pull', () => {
  const stuck = { fault: ({ path }: { path: string }): Fault | undefined => (path.includes(big) ? 'hang' : undefined) };
  const received: number[] = [];
  const outcomes: string[] = [];
  const observe = {
    received: (bytes: number) => void received.push(bytes),
    retried: () => {},
    pulled: (outcome: string) => void outcomes.push(outcome),
  };

  test('is told layer by layer, with who waits and where from', async () => {
    await using registry = await FakeRegistry.start(content, stuck);
    await using store = await TestStore.open({ observe });
    await store.redirect('example.com', registry.host);
    const leave = new AbortController();
    const pulls = [1, 2].map(() => store.storage.pull('example.com/app:1', { signal: leave.signal }));
    for (const pull of pulls) pull.catch(() => {}); // looked at below
    const layers = await vi.waitFor(
      () => {
        const [pull, ...others] = store.storage.pulls();
        expect(others).toEqual([]);
        expect(pull).toMatchObject({ image: 'example.com/app:1', stage: 'layers', waiters: 2, layersDone: 0, source: registry.host, retries: 0 });
        expect(pull?.receivedBytes).toBeGreaterThan(100_000);
        return pull?.layers;
      },
      { timeout: 30_000 },
    );
    expect(layers).toMatchObject([
      { digest: big, state: 'downloading', source: registry.host },
      { digest: image.layerDigests[1], state: 'unpacking' }, // done, but for what it needs of the one below
    ]);
    expect(store.storage.pullProgress('example.com/app:1', {})).toMatchObject({ waiters: 2 });
    expect(store.storage.pullProgress('example.com/app:1', { handler: 'kata' })).toBeUndefined();
    expect(store.storage.pullProgress('No/Name', {})).toBeUndefined();
    leave.abort(new Error('enough'));
    for (const pull of pulls) await expect(pull).rejects.toThrow('enough');
    await vi.waitFor(() => expect(store.storage.pulls()).toEqual([]), { timeout: 30_000 });
    expect(outcomes).toEqual(['cancelled']);
    expect(received.reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThan(100_000);
  });

  test('is in the error of one that stalled', async () => {
    await using at = await serve(stuck);
    await expect(at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).rejects.toThrow(
      new RegExp(`no progress: not a byte .* \\(0 of 2 layers done, 0\\.\\d of 0\\.4 MiB at \\d\\.\\d MiB/s from ${at.registry.host}\\)$`),
    );
  });
});

describe('pulls at the same time', () => {
  test('are one when they are equal, and share layers when not', async () => {
    const other = makeImage([{ entries: [{ name: 'x' }] }, { entries: [{ name: 'y' }] }]);
    const cousin = makeImage([{ entries: [{ name: 'x' }] }, { entries: [{ name: 'z' }] }]);
    await using at = await serve({}, contentOf({ 'app:1': image, 'app:2': other, 'app:3': cousin }));
    const { storage, signal } = at.store;
    const handlers = ['', '', '', 'kata'].map((handler) => storage.pull('example.com/app:1', { handler, signal }));
    await Promise.all([...handlers, ...['2', '3'].map((tag) => storage.pull(`example.com/app:${tag}`, { signal }))]);
    expect(at.registry.count('/manifests/1')).toBe(2);
    expect(at.registry.count(big)).toBe(1);
    expect(at.registry.count(other.layerDigests[0] as string)).toBe(1);
    expect(await at.store.leftovers()).toEqual({ staging: [], layers: 5, blobs: 3, images: 3 });
  });

  test('go on for those who stay, and end soon after all have left', async () => {
    await using at = await serve({ fault: ({ path, count }) => (path.includes(big) && count === 1 ? 'hang' : undefined) });
    const { storage, signal } = at.store;
    const leaver = new AbortController();
    const stays = storage.pull('example.com/app:1', { signal });
    const leaves = storage.pull('example.com/app:1', { signal: leaver.signal });
    await vi.waitFor(() => expect(at.registry.count(big)).toBe(1));
    leaver.abort(new Error('gave up'));
    await expect(leaves).rejects.toThrow('gave up');
    await expect(stays).rejects.toThrow('no progress');
    const alone = new AbortController();
    const unwanted = storage.pull('example.com/app:1', { signal: alone.signal });
    alone.abort(new Error('gave up'));
    await expect(unwanted).rejects.toThrow('gave up');
    await vi.waitFor(async () => expect((await at.store.leftovers()).staging).toEqual([]), { timeout: 20_000 });
  });

  test('with other credentials do not profit from a failure or a success of their neighbours', async () => {
    await using at = await serve({ auth: 'token', users: { alice: 'secret-word' } });
    const { storage, signal } = at.store;
    const [bad, good] = await Promise.allSettled([
      storage.pull('example.com/app:1', { auth: { ...alice, password: 'no' }, signal }),
      storage.pull('example.com/app:1', { auth: alice, signal }),
    ]);
    expect(bad.status).toBe('rejected');
    expect(good.status).toBe('fulfilled');
    // The image is here by now; that is no reason to give it to others.
    await expect(storage.pull('example.com/app:1', { auth: { ...alice, password: 'no' }, signal })).rejects.toThrow('credentials');
    await expect(storage.pull('example.com/app:1', { signal })).rejects.toThrow(/anonymous|wants credentials/);
  });
});

/** Pids of this process's children for pulls. */
function pullChildren(parent = process.pid): number[] {
  return readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8')
    .split(' ')
    .filter((pid) => pid !== '' && existsSync(`/proc/${pid}/cmdline`) && /storage\/(fetch|unpack)-child/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8')))
    .map(Number);
}

describe('the children that pull', () => {
  test('end with the store', async () => {
    await using at = await serve();
    await at.store.storage.pull('example.com/app:1', { signal: at.store.signal });
    expect(pullChildren().length).toBeGreaterThan(0);
    await at.store.close();
    expect(pullChildren()).toEqual([]);
  });

  test('end with a daemon that is killed', async () => {
    await using at = await serve({ fault: ({ path }) => (path.includes(big) ? 'hang' : undefined) });
    const script = `
      const { Storage } = await import('${resolve('storage/storage.ts')}');
      const { silentLog } = await import('${resolve('base/log.ts')}');
      const storage = await Storage.open({ root: '${at.store.dir}/other', log: silentLog, registriesConf: '${at.store.dir}/registries.conf', globalAuthFile: '',
        maxParallelDownloads: 3, pullProgressTimeoutMs: 60000, pinnedImages: [] });
      await storage.pull('example.com/app:1', { signal: new AbortController().signal });`;
    const daemon = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'ignore' });
    await vi.waitFor(() => expect(at.registry.count(big)).toBe(1), { timeout: 10_000 });
    const children = pullChildren(daemon.pid as number);
    expect(children.length).toBeGreaterThan(0);
    daemon.kill('SIGKILL');
    await vi.waitFor(() => expect(children.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]), { timeout: 10_000 });
  });

  test('may die: that pull fails with a reason, the next one works', async () => {
    await using at = await serve({ fault: ({ path, count }) => (path.includes(big) && count === 1 ? 'hang' : undefined) });
    const { storage, signal } = at.store;
    const failed = storage.pull('example.com/app:1', { signal });
    failed.catch(() => {});
    await vi.waitFor(() => expect(at.registry.count(big)).toBe(1));
    for (const pid of pullChildren()) process.kill(pid, 'SIGKILL');
    await expect(failed).rejects.toThrow('was killed by SIGKILL');
    expect((await storage.pull('example.com/app:1', { signal })).id).toBe(image.id);
    expect((await at.store.leftovers()).staging).toEqual([]);
  });
});
