import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { run } from '#base/exec.ts';
import { mount, umount } from '#base/sys.ts';
import { hexOf } from '../../../storage/digest.ts';
import type { ImageId, RegistryAuth } from '../../../storage/storage.ts';
import { DockerRegistry } from '../../fixtures/storage/docker-registry.ts';
import { makeImage, pushImage, writeLayout } from '../../fixtures/storage/image.ts';
import { listing, stack } from '../../fixtures/storage/stack.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const berth: RegistryAuth = { username: 'berth', password: 'hunter2', auth: '', serverAddress: '', identityToken: '', registryToken: '' };

describe('with a real registry', () => {
  test('an image pulled with a password is what umoci unpacks', async () => {
    await using registry = await DockerRegistry.start({ auth: true });
    await using store = await TestStore.open();
    await store.redirect('registry.k8s.io', registry.host);
    const image = makeImage(stack.map((layer) => ({ ...layer, compression: 'gzip' }))); // this umoci knows no zstd
    const authorization = `Basic ${Buffer.from('berth:hunter2').toString('base64')}`;
    await pushImage(`http://${registry.host}`, 'team/app', 'v1', image, { authorization });
    const { storage, signal } = store;
    await expect(storage.pull('registry.k8s.io/team/app:v1', { signal })).rejects.toThrow('wants credentials, and none were given (401)');
    await expect(storage.pull('registry.k8s.io/team/app:v1', { auth: { ...berth, password: 'hunter3' }, signal })).rejects.toThrow('refuses the credentials');
    const pulled = await storage.pull('registry.k8s.io/team/app:v1', { auth: berth, signal });
    await expect(storage.pull('registry.k8s.io/team/app:v2', { auth: berth, signal })).rejects.toMatchObject({ kind: 'notFound' });
    const layout = join(store.dir, 'layout');
    await writeLayout(layout, [{ image, name: 'v1' }]);
    execFileSync('umoci', ['raw', 'unpack', '--image', `${layout}:v1`, join(store.dir, 'umoci')], { stdio: 'pipe' });
    expect(listing(await store.mount(pulled.id))).toBe(listing(join(store.dir, 'umoci')));
  });

  test('what skopeo pushed as Docker schema 2 is pulled', async () => {
    await using registry = await DockerRegistry.start();
    await using store = await TestStore.open();
    await store.redirect('docker.io', registry.host);
    const layout = join(store.dir, 'layout');
    await writeLayout(layout, [{ image: makeImage(stack.slice(0, 1)), name: 'v1' }]);
    const copy = ['copy', '-q', '--insecure-policy', '--dest-tls-verify=false', '--format', 'v2s2', `oci:${layout}:v1`];
    execFileSync('skopeo', [...copy, `docker://${registry.host}/library/tool:latest`], { stdio: 'pipe' });
    const pulled = await store.storage.pull('tool', { signal: store.signal });
    expect(pulled.repoTags).toEqual(['docker.io/library/tool:latest']);
    for (const name of [
      'tool',
      'tool:latest',
      'docker.io/tool',
      'docker.io/library/tool:latest',
      pulled.id,
      hexOf(pulled.id),
      hexOf(pulled.id).slice(0, 12),
      pulled.repoDigests[0],
    ]) {
      expect(store.storage.find(name as string)?.id).toBe(pulled.id);
    }
    for (const name of ['tool:2', 'quay.io/tool', 'sha256:', '', 'too', 'UPPER', `tool@sha256:${'0'.repeat(64)}`])
      expect(store.storage.find(name)).toBeUndefined();
  });
});

describe('load()', () => {
  test('reads docker and OCI archives, compressed or not, with their names', async () => {
    await using store = await TestStore.open();
    const { storage, signal, dir } = store;
    const layout = join(dir, 'layout');
    const image = makeImage(stack.map((layer) => ({ ...layer, compression: 'gzip' as const })));
    await writeLayout(layout, [{ image, name: 'v1' }]);
    const archive = (name: string): string => join(dir, name);
    execFileSync('skopeo', ['copy', '-q', '--insecure-policy', `oci:${layout}:v1`, `docker-archive:${archive('docker.tar')}:example.com/app:v1`], {
      stdio: 'pipe',
    });
    execFileSync('skopeo', ['copy', '-q', '--insecure-policy', `oci:${layout}:v1`, `oci-archive:${archive('oci.tar')}:example.com/oci:v1`], { stdio: 'pipe' });
    execFileSync('gzip', ['-k', archive('oci.tar')]);
    const [docker] = await storage.load(archive('docker.tar'), { signal });
    expect(docker?.repoTags).toEqual(['example.com/app:v1']);
    expect(docker?.layers).toHaveLength(3);
    const [oci] = await storage.load(archive('oci.tar.gz'), { signal });
    expect(oci?.repoTags).toContain('example.com/oci:v1');
    const [named] = await storage.load(layout, { signal, name: 'other' });
    expect(named?.repoTags).toContain('docker.io/library/other:latest');
    expect(named?.repoDigests).toContainEqual(expect.stringContaining('docker.io/library/other@sha256:'));
    expect((await store.leftovers()).staging).toEqual([]);
    expect(listing(await store.mount(docker?.id as ImageId, 'c1'))).toBe(listing(await store.mount(named?.id as ImageId, 'c2')));
  });

  test('refuses what is no archive, or lies, or leads out of itself', async () => {
    await using store = await TestStore.open();
    const { storage, signal, dir } = store;
    await expect(storage.load(join(dir, 'none.tar'), { signal })).rejects.toMatchObject({ kind: 'notFound' });
    await writeFile(join(dir, 'text.tar'), 'x'.repeat(2000));
    await expect(storage.load(join(dir, 'text.tar'), { signal })).rejects.toMatchObject({
      kind: 'invalidArgument',
      message: expect.stringContaining('text.tar'),
    });
    const image = makeImage(stack.slice(0, 1));
    const layer = hexOf(image.layerDigests[0] as never);
    for (const spoil of [
      (path: string): void => writeFileSync(path, 'other bytes'),
      async (path: string): Promise<void> => {
        await rm(path);
        await symlink('/etc/hostname', path);
      },
    ]) {
      const layout = join(dir, `layout-${Math.random()}`);
      await writeLayout(layout, [{ image }]);
      await spoil(join(layout, 'blobs/sha256', layer));
      await expect(storage.load(layout, { signal })).rejects.toThrow(/came with digest|is not a file in it/);
    }
    expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
  });
});

test('load() says that the disk is full, not that the archive is wrong', async () => {
  await using outer = await TestStore.open();
  const root = join(outer.dir, 'small');
  await mkdir(root);
  mount('tmpfs', root, 'tmpfs', 0, 'size=2m');
  try {
    await using store = await TestStore.open({ root });
    const layout = join(outer.dir, 'layout');
    await writeLayout(layout, [{ image: makeImage([{ entries: [{ name: 'noise', content: randomBytes(4_000_000) }] }]) }]);
    const archive = join(outer.dir, 'large.tar');
    await run('tar', ['-C', layout, '-cf', archive, '.'], { signal: store.signal });
    await expect(store.storage.load(archive, { signal: store.signal })).rejects.toMatchObject({
      kind: 'resourceExhausted',
      message: expect.stringContaining(root),
    });
    expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
  } finally {
    umount(root, 2);
  }
});

describe('remove()', () => {
  test('frees the layers that no other image has, and is done when all is gone', async () => {
    await using store = await TestStore.open();
    const { storage, signal } = store;
    const shared = await store.load(stack.slice(0, 1), 'a.com/shared:1');
    const empty = storage.fsInfo();
    const all = await store.load(stack, 'a.com/all:1');
    expect(storage.fsInfo().inodesUsed).toBeGreaterThan(empty.inodesUsed);
    await storage.remove(all, { signal });
    await storage.remove(all, { signal });
    expect(storage.find('a.com/all:1')).toBeUndefined();
    expect(storage.fsInfo()).toEqual(empty);
    expect(listing(await store.mount(shared))).toContain('./bin/sh');
    expect(await store.leftovers()).toEqual({ staging: [], layers: 1, blobs: 1, images: 1 });
    expect(await readdir(join(store.root, 'trash'))).toEqual([]);
    await storage.remove(shared, { signal });
    expect((await store.leftovers()).layers).toBe(1); // mounted
    await storage.unmountRootfs(join(store.dir, 'containers/c1/rootfs'));
    await storage.remove(await store.load(stack.slice(0, 1), 'a.com/shared:1'), { signal });
    expect(storage.fsInfo()).toEqual({ mountpoint: store.root, usedBytes: 0, inodesUsed: 0 });
  });
});

test('remove() refuses while somebody uses the image', async () => {
  const users = new Map<string, string>();
  await using store = await TestStore.open({ usedBy: (image) => users.get(image) });
  const id = await store.load(stack, 'a.com/app:1');
  users.set(id, 'container c1');
  await expect(store.storage.remove(id, { signal: store.signal })).rejects.toMatchObject({
    kind: 'failedPrecondition',
    message: `image ${id} is in use by container c1`,
  });
  expect(store.storage.find('a.com/app:1')?.id).toBe(id);
  users.clear();
  await store.storage.remove(id, { signal: store.signal });
  expect(await store.leftovers()).toEqual({ staging: [], layers: 0, blobs: 0, images: 0 });
});

describe('open()', () => {
  test('knows all that was there, and clears what was half made', async () => {
    await using store = await TestStore.open();
    const id = await store.load(stack, 'a.com/app:1');
    const before = { images: store.storage.images(), info: store.storage.fsInfo() };
    await store.close();
    const half = join(store.root, 'staging', 'half');
    await mkdir(join(half, 'merged'), { recursive: true });
    mount('tmpfs', join(half, 'merged'), 'tmpfs');
    await mkdir(join(store.root, 'layers', '0'.repeat(64), 'diff'), { recursive: true });
    await writeFile(join(store.root, 'blobs', 'f'.repeat(64)), 'orphan');
    await store.reopen();
    expect(store.storage.images()).toEqual(before.images);
    expect(store.storage.fsInfo()).toEqual(before.info);
    expect(store.storage.find('a.com/app:1')?.id).toBe(id);
    expect(await store.leftovers()).toEqual({ staging: [], layers: 3, blobs: 1, images: 1 });
  });

  test('does not wait for what no image needs to be deleted, nor fail where it cannot be', async () => {
    await using store = await TestStore.open();
    const id = await store.load(stack.slice(0, 1));
    const layer = hexOf(store.storage.find(id)?.layers[0] as never);
    await store.close();
    await rm(join(store.root, 'images', `${hexOf(id)}.json`));
    const inside = join('diff', 'mounted');
    await mkdir(join(store.root, 'layers', layer, inside));
    mount('tmpfs', join(store.root, 'layers', layer, inside), 'tmpfs');
    try {
      await store.reopen();
      expect(await store.leftovers()).toMatchObject({ layers: 0, images: 0 });
    } finally {
      await store.close();
      for (const place of [join('layers', layer), ...(await readdir(join(store.root, 'trash'))).map((name) => join('trash', name))]) {
        if (existsSync(join(store.root, place, inside))) umount(join(store.root, place, inside), 2);
      }
    }
  });

  test.each<[string, (root: string, id: ImageId, layer: string) => void | Promise<void>]>([
    ['a torn record', (root, id) => writeFileSync(join(root, 'images', `${hexOf(id)}.json`), '{"version":1,"id"')],
    ['an empty record', (root, id) => writeFileSync(join(root, 'images', `${hexOf(id)}.json`), '')],
    ['a record of another version', (root, id) => writeFileSync(join(root, 'images', `${hexOf(id)}.json`), '{"version":2}')],
    ['a lost config', (root, id) => rm(join(root, 'blobs', hexOf(id)))],
    ['a lost layer', (root, _id, layer) => rm(join(root, 'layers', layer), { recursive: true })],
    ['a damaged layer record', (root, _id, layer) => writeFileSync(join(root, 'layers', layer, 'layer.json'), '{')],
  ])('loses only the image that has %s', async (_what, damage) => {
    await using store = await TestStore.open();
    const kept = await store.load(stack.slice(0, 1), 'a.com/kept:1');
    const lost = await store.load(stack, 'a.com/lost:1');
    const layer = hexOf(store.storage.find(lost)?.layers.at(-1) as never);
    await store.close();
    await damage(store.root, lost, layer);
    await store.reopen();
    expect(store.storage.images().map(({ id }) => id)).toEqual([kept]);
    expect(await store.leftovers()).toEqual({ staging: [], layers: 1, blobs: 1, images: 1 });
    expect(await store.load(stack, 'a.com/lost:1')).toBe(lost);
  });

  test('pins what the configuration names', async () => {
    await using store = await TestStore.open({ pinnedImages: ['a.com/pinned*'] });
    await store.load(stack.slice(0, 1), 'a.com/pinned:1');
    await store.load(stack.slice(0, 2), 'a.com/other:1');
    expect(store.storage.images().map(({ pinned }) => pinned)).toEqual([true, false]);
    const files = { registriesConf: '/nonexistent', globalAuthFile: '' };
    const change = await store.storage.prepare({ ...files, maxParallelDownloads: 1, pullProgressTimeoutMs: 1, pinnedImages: ['a.com/other:1'] });
    expect(store.storage.images().map(({ pinned }) => pinned)).toEqual([true, false]);
    change();
    expect(store.storage.images().map(({ pinned }) => pinned)).toEqual([false, true]);
  });
});
