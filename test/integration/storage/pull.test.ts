import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { mount, umount } from '#base/sys.ts';
import type { Digest, RegistryAuth } from '../../../storage/storage.ts';
import { type FakeContent, FakeRegistry, type FakeRegistryOptions, type Fault } from '../../fakes/registry.ts';
import { contentOf, makeImage } from '../../fixtures/storage/image.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const noAuth: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const alice: RegistryAuth = { ...noAuth, username: 'alice', password: 'secret-word' };
const image = makeImage([{ entries: [{ name: 'a', content: randomBytes(400_000) }] }, { entries: [{ name: 'b', content: 'b' }], compression: 'zstd' }], {
  Cmd: ['/a'],
});
const big = image.layerDigests[0] as Digest;
const content = contentOf({ 'app:1': image });

async function serve(options: FakeRegistryOptions = {}, what: FakeContent = content): Promise<{ store: TestStore; registry: FakeRegistry } & AsyncDisposable> {
  const registry = await FakeRegistry.start(what, options);
  const store = await TestStore.open({ pullProgressTimeoutMs: 1_000 });
  await store.redirect('example.com', registry.host);
  return {
    store,
    registry,
    [Symbol.asyncDispose]: async () => {
      await store[Symbol.asyncDispose]();
      await registry[Symbol.asyncDispose]();
    },
  };
}

describe('pull()', () => {
  test('brings an image in by tag, then by digest without fetching anything again', async () => {
    await using at = await serve();
    const { storage, signal } = at.store;
    const pulled = await storage.pull('example.com/app:1', { signal });
    expect(pulled).toMatchObject({ id: image.id, repoTags: ['example.com/app:1'], repoDigests: [`example.com/app@${image.digest}`], os: 'linux' });
    expect(pulled.config.cmd).toEqual(['/a']);
    expect(JSON.parse(pulled.rawConfig)).toMatchObject({ config: { Cmd: ['/a'] } });
    expect(pulled.sizeBytes).toBe([...image.blobs.values()].reduce((sum, blob) => sum + blob.length, 0));
    const blobs = at.registry.count('/blobs/sha256');
    const again = await storage.pull(`example.com/app:1@${image.digest}`, { signal });
    expect(again).toMatchObject({ id: image.id, repoTags: ['example.com/app:1'] });
    expect(at.registry.count('/blobs/sha256')).toBe(blobs + 1); // the config, which names the image
    expect((await at.store.leftovers()).staging).toEqual([]);
  });

  test('moves a tag to another image, and the old one keeps its digest', async () => {
    const next = makeImage([{ entries: [{ name: 'c' }] }]);
    const what = contentOf({ 'app:1': image });
    await using at = await serve({}, what);
    const { storage, signal } = at.store;
    await storage.pull('example.com/app:1', { signal });
    for (const [key, value] of contentOf({ 'app:1': next }).manifests) what.manifests.set(key, value);
    for (const [key, value] of next.blobs) what.blobs.set(key, value);
    await storage.pull('example.com/app:1', { signal });
    for (let round = 0; round < 2; round += 1) {
      expect(storage.find('example.com/app:1')?.id).toBe(next.id);
      expect(at.store.storage.find(image.id)).toMatchObject({ repoTags: [], repoDigests: [`example.com/app@${image.digest}`] });
      await at.store.reopen();
    }
  });

  test('takes the image for this machine out of an index, and keeps the index as its digest', async () => {
    const { manifests, blobs } = contentOf({ 'app:one': image });
    const host = { os: 'linux', architecture: process.arch === 'x64' ? 'amd64' : process.arch };
    const entry = (digest: string, platform: object): object => ({ mediaType: image.mediaType, digest, size: image.manifest.length, platform });
    const type = 'application/vnd.oci.image.index.v1+json';
    const body = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType: type, manifests: [entry(big, { os: 'windows', architecture: 'amd64' }), entry(image.digest, host)] }),
    );
    manifests.set('app:multi', { body, type });
    await using at = await serve({}, { manifests, blobs });
    const pulled = await at.store.storage.pull('example.com/app:multi', { signal: at.store.signal });
    expect(pulled.id).toBe(image.id);
    expect(pulled.repoDigests[0]).not.toContain(image.digest);
    expect(at.store.storage.find(pulled.repoDigests[0] as string)?.id).toBe(image.id);
  });

  test('says what it cannot find', async () => {
    await using at = await serve();
    await expect(at.store.storage.pull('example.com/app:2', { signal: at.store.signal })).rejects.toMatchObject({
      kind: 'notFound',
      message: expect.stringMatching(/^pull example.com\/app:2: .*MANIFEST_UNKNOWN/),
    });
    await expect(at.store.storage.pull('Example/App', { signal: at.store.signal })).rejects.toMatchObject({ kind: 'invalidArgument' });
  });
});

describe('authorisation', () => {
  test.each(['basic', 'token'] as const)('by %s wants the right password, and tells nobody', async (auth) => {
    await using at = await serve({ auth, users: { alice: 'secret-word' } });
    const { storage, signal } = at.store;
    await expect(storage.pull('example.com/app:1', { signal })).rejects.toThrow(/credentials|anonymous/);
    const wrong = storage.pull('example.com/app:1', { auth: { ...alice, password: 'wrong-word' }, signal });
    await expect(wrong).rejects.toThrow('refuses the credentials (401)');
    await expect(wrong).rejects.not.toThrow(/wrong-word|alice/);
    expect((await storage.pull('example.com/app:1', { auth: alice, signal })).id).toBe(image.id);
  });

  test('takes an anonymous token, an identity token and a registry token', async () => {
    await using open = await serve({ auth: 'token' });
    expect((await open.store.storage.pull('example.com/app:1', { signal: open.store.signal })).id).toBe(image.id);
    await using refreshed = await serve({ auth: 'token', identityToken: 'identity' });
    await refreshed.store.storage.pull('example.com/app:1', { auth: { ...noAuth, identityToken: 'identity' }, signal: refreshed.store.signal });
    const token = refreshed.registry.requests.find(({ authorization }) => authorization?.startsWith('Bearer') === true)?.authorization?.slice(7) as string;
    await using store = await TestStore.open();
    await store.redirect('example.com', refreshed.registry.host);
    await store.storage.pull('example.com/app:1', { auth: { ...noAuth, registryToken: token }, signal: store.signal });
    expect(refreshed.registry.count('/token')).toBe(1);
  });

  test('comes from the auth file when the call brings none', async () => {
    await using at = await serve({ auth: 'basic', users: { alice: 'secret-word' } });
    const auth = Buffer.from('alice:secret-word').toString('base64');
    await writeFile(join(at.store.dir, 'auth.json'), JSON.stringify({ auths: { 'example.com/app': { auth } } }));
    expect((await at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).id).toBe(image.id);
  });

  test('is kept from where a registry redirects to, and from mirrors', async () => {
    await using elsewhere = await FakeRegistry.start(content);
    await using mirror = await FakeRegistry.start(content, { fault: () => ({ status: 404 }) });
    const fault = ({ path }: { path: string }): Fault | undefined =>
      path.includes('/blobs/') ? { status: 307, headers: { location: `http://${elsewhere.host}${path}?signature=hidden` } } : undefined;
    await using at = await serve({ auth: 'basic', users: { alice: 'secret-word' }, fault });
    await at.store.redirect('example.com', at.registry.host, [mirror.host]);
    await at.store.storage.pull('example.com/app:1', { auth: alice, signal: at.store.signal });
    expect(elsewhere.requests).toHaveLength(3);
    expect(mirror.requests.length).toBeGreaterThan(0);
    for (const { authorization } of [...elsewhere.requests, ...mirror.requests]) expect(authorization).toBeUndefined();
  });
});

describe('a bad registry', () => {
  const on = (part: string, fault: Fault, times = 1) => ({
    fault: ({ path, count }: { path: string; count: number }) => (path.includes(part) && count <= times ? fault : undefined),
  });

  test.each<[string, FakeRegistryOptions]>([
    ['answers 503 once', on('/manifests/', { status: 503 })],
    ['answers 429 and when to come back', on(big, { status: 429, headers: { 'retry-after': '1' } })],
    ['drops the connection within a blob', on(big, 'break', 2)],
  ])('that %s is asked again', async (_what, options) => {
    await using at = await serve(options);
    expect((await at.store.storage.pull('example.com/app:1', { signal: at.store.signal })).id).toBe(image.id);
  });

  test('that drops the connection is asked for the rest only', async () => {
    await using at = await serve(on(big, 'break'));
    await at.store.storage.pull('example.com/app:1', { signal: at.store.signal });
    const ranges = at.registry.requests.filter(({ path }) => path.includes(big)).map(({ range }) => range);
    expect(ranges).toEqual([undefined, expect.stringMatching(/^bytes=\d+-$/)]);
  });

  test.each<[string, FakeRegistryOptions, RegExp]>([
    ['answers 500', on('/manifests/', { status: 500 }, 99), /^RegistryUnavailable: pull example.com\/app:1: .* answers 500/],
    ['stops sending', on(big, 'hang', 99), /^RegistryUnavailable: .*no progress: not a byte was received for 1 s/],
    ['sends other bytes', on(big, 'corrupt', 99), /^pull example.com\/app:1: blob sha256:.* came with digest/],
    ['sends another manifest', on('/manifests/sha256', 'corrupt', 99), /has digest/],
    ['redirects without end', { fault: ({ path }) => ({ status: 302, headers: { location: path } }) }, /^RegistryUnavailable: .*redirects more than/],
  ])('that %s is named, and nothing is left', async (_what, options, message) => {
    await using at = await serve(options);
    const name = String(message).includes('has digest') ? `example.com/app@${image.digest}` : 'example.com/app:1';
    await expect(at.store.storage.pull(name, { signal: at.store.signal })).rejects.toMatchObject({ kind: 'unknown', message: expect.stringMatching(message) });
    const { staging, images, blobs } = await at.store.leftovers();
    expect({ staging, images, blobs }).toEqual({ staging: [], images: 0, blobs: 0 });
  });

  test('is passed over for the next mirror, and all reasons are told when none has it', async () => {
    await using first = await FakeRegistry.start(content, { fault: () => ({ status: 404 }) });
    await using second = await FakeRegistry.start(content);
    await using at = await serve(on('/', { status: 403 }, 99));
    await at.store.redirect('example.com', at.registry.host, [first.host, second.host]);
    const { storage, signal } = at.store;
    expect((await storage.pull('example.com/app:1', { signal })).id).toBe(image.id);
    await at.store.redirect('example.com', at.registry.host, [first.host, '127.0.0.1:1']);
    const failed = storage.pull('example.com/app:1', { signal });
    for (const reason of [
      `mirror manifests/1 of app at ${first.host} is not there`,
      'mirror http://127.0.0.1:1/v2/app/manifests/1: connect ECONNREFUSED',
      '(403)',
    ]) {
      await expect(failed).rejects.toThrow(reason);
    }
  });
});

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

test('pull() says that the disk is full, and leaves what was there', async () => {
  await using outer = await TestStore.open();
  const root = join(outer.dir, 'small');
  await mkdir(root);
  mount('tmpfs', root, 'tmpfs', 0, 'size=3m');
  try {
    const small = makeImage([{ entries: [{ name: 'ok', content: 'fits' }] }]);
    const large = makeImage([{ entries: [{ name: 'zeroes', content: Buffer.alloc(5_000_000) }] }]);
    const random = makeImage([{ entries: [{ name: 'noise', content: randomBytes(4_000_000) }] }]);
    await using registry = await FakeRegistry.start(contentOf({ 'app:small': small, 'app:large': large, 'app:random': random }));
    await using store = await TestStore.open({ root });
    await store.redirect('example.com', registry.host);
    const { storage, signal } = store;
    const { id } = await storage.pull('example.com/app:small', { signal });
    const before = await store.leftovers();
    for (const tag of ['large', 'random']) {
      await expect(storage.pull(`example.com/app:${tag}`, { signal })).rejects.toMatchObject({
        kind: 'resourceExhausted',
        message: expect.stringContaining(root),
      });
      expect(await store.leftovers()).toEqual(before);
    }
    const mounted = await store.mount(id);
    expect(readFileSync(join(mounted, 'ok'), 'utf8')).toBe('fits');
    await storage.unmountRootfs(mounted);
  } finally {
    umount(root, 2);
  }
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

test('pull() checks certificates unless the registry is insecure', async () => {
  await using store = await TestStore.open();
  const [key, cert] = ['key.pem', 'cert.pem'].map((name) => join(store.dir, name)) as [string, string];
  const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2'];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-out', cert, ...subject], {
    stdio: 'pipe',
  });
  await using registry = await FakeRegistry.start(content, { tls: { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') } });
  const { storage, signal } = store;
  await expect(storage.pull(`${registry.host}/app:1`, { signal })).rejects.toThrow(/^RegistryUnavailable: .*self-signed certificate/);
  await store.redirect('example.com', registry.host);
  expect((await storage.pull('example.com/app:1', { signal })).id).toBe(image.id);
});
