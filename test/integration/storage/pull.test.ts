import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mount, umount } from '#base/sys.ts';
import type { Digest } from '../../../storage/storage.ts';
import { type FakeContent, FakeRegistry, type FakeRegistryOptions, type Fault } from '../../fakes/registry.ts';
import { contentOf, makeImage } from '../../fixtures/storage/image.ts';
import { alice, noAuth, type ServedStore, serveStore } from '../../fixtures/storage/served-store.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const image = makeImage([{ entries: [{ name: 'a', content: randomBytes(400_000) }] }, { entries: [{ name: 'b', content: 'b' }], compression: 'zstd' }], {
  Cmd: ['/a'],
});
const big = image.layerDigests[0] as Digest;
const content = contentOf({ 'app:1': image });

const serve = (options: FakeRegistryOptions = {}, what: FakeContent = content): Promise<ServedStore> => serveStore(what, options);

describe('pull()', () => {
  test('brings an image in by tag, then by digest without fetching anything again', async () => {
    await using at = await serve();
    const { storage, signal } = at.store;
    const pulled = await storage.pull('example.com/app:1', { signal });
    expect(pulled).toMatchObject({ id: image.id, repoTags: ['example.com/app:1'], repoDigests: [`example.com/app@${image.digest}`], os: 'linux' });
    expect(pulled.config.cmd).toEqual(['/a']);
    expect(await storage.readConfig(pulled.id)).toMatchObject({ config: { Cmd: ['/a'] } });
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
