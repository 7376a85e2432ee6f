import { lstat, mkdir, open, realpath, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { CriError, describeError, isErrno, quote } from '#base/errors.ts';
import type { ChildPool } from './child-pool.ts';
import { type Digest, digestOf, hexOf, parseDigest } from './digest.ts';
import type { ImageSource, LayerSource } from './install.ts';
import { JobError, type UnpackJob, type UnpackLimits } from './jobs.ts';
import { hostPlatform, type ImageManifest, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, parseManifest } from './manifest.ts';
import { type ImageReference, parseReference, repositoryName, taggedName } from './reference.ts';
import type { Staging } from './staging.ts';

const MAX_INDEX_DEPTH = 3;

export interface ArchiveOptions {
  readonly signal: AbortSignal;
  /** The name the image gets, for an archive of one image; else what the archive says. */
  readonly name?: string;
}

/**
 * Finds the images of a docker archive, an OCI archive (both tar, maybe compressed) or an OCI layout directory, and runs
 * `use` with each while its files are there. The bytes are checked when layers are unpacked.
 * @throws {CriError} `invalidArgument` naming the path and what it lacks, `notFound`.
 */
export async function withArchive<T>(
  deps: { staging: Staging; unpackers: ChildPool; limits: UnpackLimits },
  path: string,
  options: ArchiveOptions,
  use: (source: ImageSource) => Promise<T>,
): Promise<T[]> {
  const found = await stat(path).catch((err: unknown) => {
    throw isErrno(err, 'ENOENT') ? new CriError('notFound', `image archive ${path} is not there`) : err;
  });
  if (found.isDirectory()) return useAll(await readImages(path, path, options.name), use);
  const dir = deps.staging.newPath('archive');
  await mkdir(dir, { mode: 0o700 });
  try {
    const job: UnpackJob = {
      op: 'unpack',
      blob: path,
      blobDigest: undefined,
      diffId: undefined,
      dir,
      mode: 'plain',
      merge: undefined,
      list: undefined,
      limits: deps.limits,
    };
    await deps.unpackers.run(job, options.signal).catch((err: unknown) => {
      options.signal.throwIfAborted();
      if (!(err instanceof JobError) || err.kind === 'noSpace') throw err;
      throw new CriError('invalidArgument', `image archive ${path}: ${describeError(err)}`, { cause: err });
    });
    return await useAll(await readImages(dir, path, options.name), use);
  } finally {
    await deps.staging.discard(dir);
  }
}

async function useAll<T>(sources: readonly ImageSource[], use: (source: ImageSource) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (const source of sources) results.push(await use(source));
  return results;
}

async function readImages(dir: string, path: string, name: string | undefined): Promise<ImageSource[]> {
  const files = new ArchiveFiles(dir, path);
  const reference = name === undefined ? undefined : parseReference(name);
  const sources = (await files.has('manifest.json'))
    ? await readDocker(files, path, reference)
    : (await files.has('index.json'))
      ? await readOci(files, path, reference)
      : undefined;
  if (sources === undefined) throw new CriError('invalidArgument', `image archive ${path} has neither index.json nor manifest.json`);
  if (sources.length === 0) throw new CriError('invalidArgument', `image archive ${path} has no image for ${hostPlatform().os}/${hostPlatform().architecture}`);
  if (name !== undefined && sources.length > 1)
    throw new CriError('invalidArgument', `image archive ${path} has ${sources.length} images, which cannot all be ${name}`);
  return sources;
}

/** What `docker save` writes. Source: the image spec of moby, "Combined Image JSON + Filesystem Changeset Format". */
async function readDocker(files: ArchiveFiles, path: string, name: ImageReference | undefined): Promise<ImageSource[]> {
  const list = await files.json('manifest.json');
  if (!Array.isArray(list)) throw new CriError('invalidArgument', `image archive ${path}: manifest.json is not a list`);
  const sources: ImageSource[] = [];
  for (const { Config: config, RepoTags: tags, Layers: layers } of list as { Config: unknown; RepoTags: unknown; Layers: unknown }[]) {
    if (typeof config !== 'string' || !Array.isArray(layers))
      throw new CriError('invalidArgument', `image archive ${path}: manifest.json lacks Config or Layers`);
    const configText = await files.text(config, MAX_CONFIG_BYTES);
    const blobs = await Promise.all(layers.map((layer) => files.layer(String(layer), undefined)));
    const given = name === undefined ? (Array.isArray(tags) ? tags.map((tag) => parseReference(String(tag))) : []) : [name];
    // One source for each name: the second finds everything there.
    for (const reference of given.length === 0 ? [undefined] : given) {
      const tag = reference === undefined ? undefined : taggedName(reference);
      sources.push({ name: tag ?? path, configText, layers: blobs, names: { tag, digest: undefined } });
      if (name !== undefined) break;
    }
  }
  return sources;
}

/** Source: OCI image spec, image-layout.md; the annotation with the whole name is containerd's, and others write it too. */
async function readOci(files: ArchiveFiles, path: string, name: ImageReference | undefined): Promise<ImageSource[]> {
  const index = (await files.json('index.json')) as { manifests?: unknown } | null;
  const entries = Array.isArray(index?.manifests) ? (index.manifests as Record<string, unknown>[]) : [];
  const sources: ImageSource[] = [];
  for (const entry of entries) {
    const platform = entry.platform as { os?: string; architecture?: string } | undefined;
    const host = hostPlatform();
    if (platform !== undefined && (platform.os !== host.os || platform.architecture !== host.architecture)) continue;
    const top = parseDigest(entry.digest, `a manifest of image archive ${path}`);
    const manifest = await readManifest(files, top, String(entry.mediaType), path);
    const reference = name ?? nameOf(entry.annotations);
    const tag = reference === undefined ? undefined : taggedName(reference);
    const configText = await files.blobText(manifest.config.digest, MAX_CONFIG_BYTES);
    const layers = await Promise.all(manifest.layers.map(({ digest }) => files.layer(blobPath(digest), digest)));
    sources.push({
      name: tag ?? path,
      configText,
      layers,
      names: { tag, digest: reference === undefined ? undefined : `${repositoryName(reference)}@${top}` },
    });
  }
  return sources;
}

async function readManifest(files: ArchiveFiles, top: Digest, contentType: string, path: string): Promise<ImageManifest> {
  let digest = top;
  let type = contentType;
  for (let depth = 0; depth <= MAX_INDEX_DEPTH; depth += 1) {
    const parsed = parseManifest(await files.blobText(digest, MAX_MANIFEST_BYTES), type, hostPlatform(), path);
    if ('image' in parsed) return parsed.image;
    digest = parsed.next.digest;
    type = '';
  }
  throw new CriError('invalidArgument', `image archive ${path} has an index that leads to no manifest`);
}

/** Only a whole name counts: `org.opencontainers.image.ref.name` is often a mere tag. */
function nameOf(annotations: unknown): ImageReference | undefined {
  const { 'io.containerd.image.name': full, 'org.opencontainers.image.ref.name': reference } = (annotations ?? {}) as Record<string, unknown>;
  if (typeof full === 'string' && full !== '') return parseReference(full);
  return typeof reference === 'string' && reference.includes('/') ? parseReference(reference) : undefined;
}

function blobPath(digest: Digest): string {
  return `blobs/sha256/${hexOf(digest)}`;
}

/** Files of an archive by their names in it; a symlink must not lead out of it. */
class ArchiveFiles {
  readonly #dir: string;
  readonly #shown: string;

  constructor(dir: string, shown: string) {
    this.#dir = dir;
    this.#shown = shown;
  }

  async has(name: string): Promise<boolean> {
    return (await lstat(join(this.#dir, name)).catch(() => undefined)) !== undefined;
  }

  async json(name: string): Promise<unknown> {
    try {
      return JSON.parse(await this.text(name, MAX_MANIFEST_BYTES));
    } catch (err) {
      if (err instanceof CriError) throw err;
      throw this.#refuse(name, 'is not JSON');
    }
  }

  async text(name: string, limit: number): Promise<string> {
    await using file = await open(await this.#resolve(name), 'r');
    const { size } = await file.stat();
    if (size > limit) throw this.#refuse(name, `is larger than ${limit} bytes`);
    return file.readFile('utf8');
  }

  async blobText(digest: Digest, limit: number): Promise<string> {
    const text = await this.text(blobPath(digest), limit);
    if (digestOf(text) !== digest) throw this.#refuse(blobPath(digest), 'does not have that digest');
    return text;
  }

  async layer(name: string, digest: Digest | undefined): Promise<LayerSource> {
    const path = await this.#resolve(name);
    const { size } = await stat(path);
    return { sizeBytes: size, withBlob: (use) => use({ path, unverified: digest }) };
  }

  async #resolve(name: string): Promise<string> {
    const root = await realpath(this.#dir);
    const path = await realpath(join(root, name)).catch(() => undefined);
    if (path === undefined || !path.startsWith(root + sep) || !(await lstat(path)).isFile()) throw this.#refuse(name, 'is not a file in it');
    return path;
  }

  #refuse(name: string, why: string): CriError {
    return new CriError('invalidArgument', `image archive ${this.#shown}: ${quote(name)} ${why}`);
  }
}
