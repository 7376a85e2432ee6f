// Images that pulls are measured with, made of what lies on this machine, in a registry of their own.
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '#base/exec.ts';
import { makeOnce } from '../support/images.ts';
import { type Registry, startRegistry } from '../support/registry.ts';
import { CACHE } from '../support/tool.ts';

/** About 200 MB in four gzip layers of many small files. */
export const BIG = 'registry.k8s.io/bench/big:1';
export const SMALL_IMAGES = 500;
/** One of 500 images that differ in their config only. */
export const smallImage = (index: number): string => `registry.k8s.io/bench/small:${index}`;

const long = AbortSignal.timeout(600_000);

/** Starts a registry with the conformance images, the big one and the 500 small ones. */
export function startBenchRegistry(): Promise<Registry> {
  return startRegistry({
    name: 'bench',
    fill: async (address) => {
      const layout = await bigLayout();
      await run(
        'skopeo',
        ['copy', '-q', '--preserve-digests', '--dest-tls-verify=false', '--insecure-policy', `oci:${layout}:1`, `docker://${address}/bench/big:1`],
        {
          signal: long,
        },
      );
      await pushSmall(address);
    },
  });
}

/** Paths of the big image's compressed layers. */
export async function bigLayers(): Promise<string[]> {
  const layout = await bigLayout();
  const [entry] = (JSON.parse(await readFile(join(layout, 'index.json'), 'utf8')) as { manifests: { digest: string }[] }).manifests;
  const blob = (digest: string): string => join(layout, 'blobs/sha256', digest.slice('sha256:'.length));
  const { layers } = JSON.parse(await readFile(blob(entry?.digest ?? ''), 'utf8')) as { layers: { digest: string }[] };
  return layers.map(({ digest }) => blob(digest));
}

/** An OCI layout with the big image as `1`, made when it is not there yet. */
async function bigLayout(): Promise<string> {
  const done = join(CACHE, 'bench-big');
  await makeOnce(done, async (directory) => {
    const blobs = join(directory, 'blobs/sha256');
    await mkdir(blobs, { recursive: true });
    const commands = await Promise.all(
      (await readdir('/usr/bin')).map(async (name) => ({ name, size: (await stat(join('/usr/bin', name)).catch(() => undefined))?.size ?? 0 })),
    );
    const large = commands.sort((a, b) => b.size - a.size).slice(40, 150);
    const parts = [
      ['usr/include', 'usr/share/doc', 'usr/share/go-1.19', 'usr/share/zoneinfo'],
      ['usr/share/locale', 'usr/share/vim', 'usr/share/perl', 'usr/share/i18n'],
      ['usr/lib/python3', 'usr/lib/python3.11', 'usr/lib/gcc'],
      large.map(({ name }) => `usr/bin/${name}`),
    ];
    const layers = await Promise.all(
      parts.map((paths, index) =>
        makeLayer(
          blobs,
          index,
          paths.filter((path) => existsSync(`/${path}`)),
        ),
      ),
    );
    const put = async (value: object): Promise<{ digest: string; size: number }> => {
      const text = JSON.stringify(value);
      const hex = createHash('sha256').update(text).digest('hex');
      await writeFile(join(blobs, hex), text);
      return { digest: `sha256:${hex}`, size: Buffer.byteLength(text) };
    };
    const config = await put(configOf(layers.map(({ diffId }) => diffId)));
    const manifest = await put(manifestOf(config, layers));
    await writeFile(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    const named = { mediaType: 'application/vnd.oci.image.manifest.v1+json', ...manifest, annotations: { 'org.opencontainers.image.ref.name': '1' } };
    await writeFile(join(directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [named] }));
  });
  return done;
}

interface Layer {
  readonly digest: string;
  readonly size: number;
  readonly diffId: string;
}

async function makeLayer(blobs: string, index: number, paths: readonly string[]): Promise<Layer> {
  const tar = join(blobs, `${index}.tar`);
  const same = ['--sort=name', '--mtime=@315532800', '--owner=0', '--group=0', '--numeric-owner', '--hard-dereference'];
  await run('tar', [...same, '-C', '/', '-cf', tar, ...paths], { signal: long });
  const diffId = await digestOfFile(tar);
  await run('gzip', ['-6', '-n', tar], { signal: long });
  const digest = await digestOfFile(`${tar}.gz`);
  const place = join(blobs, digest.slice('sha256:'.length));
  await copyFile(`${tar}.gz`, place);
  await rm(`${tar}.gz`);
  return { digest, diffId, size: (await stat(place)).size };
}

async function digestOfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return `sha256:${hash.digest('hex')}`;
}

function configOf(diffIds: readonly string[], labels: Readonly<Record<string, string>> = {}): object {
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  return { created: '1980-01-01T00:00:00Z', architecture, os: 'linux', config: { Cmd: ['sh'], Labels: labels }, rootfs: { type: 'layers', diff_ids: diffIds } };
}

function manifestOf(config: { digest: string; size: number }, layers: readonly Pick<Layer, 'digest' | 'size'>[], compression = '+gzip'): object {
  return {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
    layers: layers.map(({ digest, size }) => ({ mediaType: `application/vnd.oci.image.layer.v1.tar${compression}`, digest, size })),
  };
}

/** By the registry's API: skopeo would take a tenth of a second for each. */
async function pushSmall(address: string): Promise<void> {
  const base = `http://${address}/v2/bench/small`;
  const ok = async (response: Response): Promise<Response> => {
    if (!response.ok) throw new Error(`${response.url}: ${response.status} ${await response.text()}`);
    return response;
  };
  const pushBlob = async (body: Buffer): Promise<{ digest: string; size: number }> => {
    const digest = `sha256:${createHash('sha256').update(body).digest('hex')}`;
    const place = new URL((await ok(await fetch(`${base}/blobs/uploads/`, { method: 'POST' }))).headers.get('location') ?? '', base);
    place.searchParams.set('digest', digest);
    await ok(await fetch(place, { method: 'PUT', body: new Uint8Array(body) }));
    return { digest, size: body.length };
  };
  const tar = Buffer.alloc(10_240); // an empty one
  const layer = await pushBlob(tar);
  for (let index = 0; index < SMALL_IMAGES; index += 1) {
    const config = await pushBlob(Buffer.from(JSON.stringify(configOf([layer.digest], { index: String(index) }))));
    const headers = { 'content-type': 'application/vnd.oci.image.manifest.v1+json' };
    await ok(await fetch(`${base}/manifests/${index}`, { method: 'PUT', headers, body: JSON.stringify(manifestOf(config, [layer], '')) }));
  }
}
