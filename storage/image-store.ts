import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { syncDirectory, writeFileAtomic } from '#base/atomic-file.ts';
import { CriError, describeError } from '#base/errors.ts';
import { Locks } from '#base/lock.ts';
import type { Log } from '#base/log.ts';
import { type ChainId, hexOf, type ImageId, isDigest } from './digest.ts';
import type { Image, ImageConfig } from './image.ts';
import { matchesPin } from './pin.ts';

/** An image as its file has it, without what is derived. */
export interface ImageRecord {
  readonly version: 1;
  readonly id: ImageId;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  readonly sizeBytes: number;
  readonly layers: readonly ChainId[];
  readonly os: string;
  readonly architecture: string;
  readonly config: ImageConfig;
  /** When its names last changed, in ms since 1970. Of two records with one tag, after a crash, the later has it. */
  readonly namedAt: number;
}

/** Names that an image gets. */
export interface ImageNames {
  readonly tag: string | undefined;
  /** `registry/repository@sha256:…`. */
  readonly digest: string | undefined;
}

/** What images there are: one file each in `images/`, their config blobs in `blobs/`, all of it in memory. */
export class ImageStore {
  readonly #dir: string;
  readonly #blobs: string;
  #pins: readonly string[];
  readonly #images = new Map<ImageId, Image>();
  readonly #tags = new Map<string, ImageId>();
  readonly #digests = new Map<string, ImageId>();
  /** One writer at a time: a tag moves between two records. */
  readonly #writing = new Locks();
  #list: readonly Image[] | undefined;

  private constructor(root: string, pins: readonly string[]) {
    this.#dir = join(root, 'images');
    this.#blobs = join(root, 'blobs');
    this.#pins = pins;
  }

  /** Loads all records. A damaged one, or one whose layers or config are gone, costs that image only. */
  static async open(root: string, options: { pins: readonly string[]; hasLayer(chainId: ChainId): boolean; log: Log }): Promise<ImageStore> {
    const store = new ImageStore(root, options.pins);
    await mkdir(store.#dir, { recursive: true, mode: 0o700 });
    await mkdir(store.#blobs, { recursive: true, mode: 0o700 });
    const blobs = new Set(await readdir(store.#blobs));
    const records: ImageRecord[] = [];
    for (const name of await readdir(store.#dir)) {
      const path = join(store.#dir, name);
      try {
        const record = parseRecord(await readFile(path, 'utf8'), name);
        if (!blobs.has(hexOf(record.id))) throw new Error('its config is gone');
        if (!record.layers.every((layer) => options.hasLayer(layer))) throw new Error('a layer of it is gone');
        records.push(record);
      } catch (err) {
        options.log.warn({ path, reason: describeError(err) }, 'Dropped damaged image');
        await rm(path, { force: true, recursive: true });
      }
    }
    for (const record of records.sort((a, b) => a.namedAt - b.namedAt)) store.#remember(record);
    for (const name of blobs) if (!store.#images.has(`sha256:${name}` as ImageId)) await rm(join(store.#blobs, name), { force: true, recursive: true });
    return store;
  }

  /** Changes the patterns of `pinned_images`. */
  setPins(pins: readonly string[]): void {
    this.#pins = pins;
    for (const image of this.#images.values()) this.#images.set(image.id, this.#imageOf(recordOf(image)));
    this.#list = undefined;
  }

  list(): readonly Image[] {
    this.#list ??= [...this.#images.values()];
    return this.#list;
  }

  get(id: ImageId): Image | undefined {
    return this.#images.get(id);
  }

  byTag(tag: string): Image | undefined {
    return this.#lookUp(this.#tags.get(tag));
  }

  byDigest(digest: string): Image | undefined {
    return this.#lookUp(this.#digests.get(digest));
  }

  /** The only image whose id begins with these hex digits. */
  byPrefix(hex: string): Image | undefined {
    const found = this.list().filter(({ id }) => hexOf(id).startsWith(hex));
    return found.length === 1 ? found[0] : undefined;
  }

  /** Where the config blob of an image lies. */
  configPath(id: ImageId): string {
    return join(this.#blobs, hexOf(id));
  }

  /** All that the config of an image says. @throws {CriError} `unknown` when it cannot be read. */
  async readConfig(id: ImageId): Promise<unknown> {
    try {
      return JSON.parse(await readFile(this.configPath(id), 'utf8'));
    } catch (err) {
      throw new CriError('unknown', `config of image ${id} cannot be read`, { cause: err });
    }
  }

  /** Every layer of every image. */
  usedLayers(): Set<ChainId> {
    return new Set(this.list().flatMap(({ layers }) => layers));
  }

  /**
   * Adds an image, or names to one that is there. Its layers must be on disk for good. A tag that another image has
   * moves here; that one keeps its digests.
   */
  async put(image: Omit<ImageRecord, 'version' | 'namedAt' | 'repoTags' | 'repoDigests'>, { tag, digest }: ImageNames): Promise<Image> {
    await using _writer = await this.#writing.acquire('', new AbortController().signal);
    const old = this.#images.get(image.id);
    const loser = tag === undefined ? undefined : this.byTag(tag);
    const record: ImageRecord = {
      version: 1,
      ...image,
      repoTags: added(old?.repoTags, tag),
      repoDigests: added(old?.repoDigests, digest),
      namedAt: Date.now(),
    };
    const isSame = old !== undefined && old.repoTags.length === record.repoTags.length && old.repoDigests.length === record.repoDigests.length;
    if (isSame) return old;
    await this.#write(record);
    const result = this.#remember(record);
    if (loser !== undefined && loser.id !== image.id) await this.#write(recordOf(this.#images.get(loser.id) ?? loser));
    return result;
  }

  /** Forgets an image with all its names: at once in memory, for good on disk when this resolves. */
  async delete(id: ImageId): Promise<void> {
    const image = this.#images.get(id);
    if (image === undefined) return;
    this.#images.delete(id);
    this.#list = undefined;
    for (const tag of image.repoTags) if (this.#tags.get(tag) === id) this.#tags.delete(tag);
    for (const digest of image.repoDigests) if (this.#digests.get(digest) === id) this.#digests.delete(digest);
    await using _writer = await this.#writing.acquire('', new AbortController().signal);
    if (this.#images.has(id)) return; // it came anew meanwhile
    try {
      await rm(this.#recordPath(id), { force: true });
      await syncDirectory(this.#dir);
    } catch (err) {
      this.#remember(recordOf(image)); // it would be back after the next start anyway
      throw err;
    }
    await rm(this.configPath(id), { force: true });
  }

  /** True when the file of an image says what memory does. */
  async isRecorded(id: ImageId): Promise<boolean> {
    await using _writer = await this.#writing.acquire('', new AbortController().signal);
    const image = this.#images.get(id);
    if (image === undefined) return true;
    try {
      const { namedAt: _found, ...found } = parseRecord(await readFile(this.#recordPath(id), 'utf8'), `${hexOf(id)}.json`);
      const { namedAt: _known, ...known } = recordOf(image);
      return isDeepStrictEqual(found, known);
    } catch {
      return false;
    }
  }

  /** Writes the file of an image as memory has it. */
  async recordAnew(id: ImageId): Promise<void> {
    await using _writer = await this.#writing.acquire('', new AbortController().signal);
    const image = this.#images.get(id);
    if (image !== undefined) await this.#write(recordOf(image));
  }

  /** Names in the directory of the images that are no image's. */
  async strangers(): Promise<string[]> {
    await using _writer = await this.#writing.acquire('', new AbortController().signal);
    return (await readdir(this.#dir)).filter((name) => !this.#images.has(`sha256:${name.replace(/\.json$/, '')}` as ImageId));
  }

  #recordPath(id: ImageId): string {
    return join(this.#dir, `${hexOf(id)}.json`);
  }

  #lookUp(id: ImageId | undefined): Image | undefined {
    return id === undefined ? undefined : this.#images.get(id);
  }

  async #write(record: ImageRecord): Promise<void> {
    await writeFileAtomic(this.#recordPath(record.id), JSON.stringify(record));
  }

  #remember(record: ImageRecord): Image {
    for (const tag of record.repoTags) {
      const loser = this.byTag(tag);
      if (loser !== undefined && loser.id !== record.id) {
        this.#images.set(loser.id, this.#imageOf({ ...recordOf(loser), repoTags: loser.repoTags.filter((other) => other !== tag) }));
      }
      this.#tags.set(tag, record.id);
    }
    for (const digest of record.repoDigests) this.#digests.set(digest, record.id);
    const image = this.#imageOf(record);
    this.#images.set(record.id, image);
    this.#list = undefined;
    return image;
  }

  #imageOf({ version: _version, namedAt: _namedAt, ...record }: ImageRecord): Image {
    return { ...record, pinned: [...record.repoTags, ...record.repoDigests].some((name) => matchesPin(name, this.#pins)) };
  }
}

function recordOf({ id, repoTags, repoDigests, sizeBytes, layers, os, architecture, config }: Image): ImageRecord {
  return { version: 1, id, repoTags, repoDigests, sizeBytes, layers, os, architecture, config, namedAt: Date.now() };
}

function added(names: readonly string[] | undefined, name: string | undefined): readonly string[] {
  const all = names ?? [];
  return name === undefined || all.includes(name) ? all : [...all, name];
}

/** @throws {Error} where a field is missing or of another type. */
function parseRecord(text: string, fileName: string): ImageRecord {
  const record = JSON.parse(text) as ImageRecord;
  const isList = (value: unknown): boolean => Array.isArray(value) && value.every((item) => typeof item === 'string');
  const { config } = record;
  const isWhole =
    record.version === 1 &&
    isDigest(record.id) &&
    fileName === `${hexOf(record.id)}.json` &&
    isList(record.repoTags) &&
    isList(record.repoDigests) &&
    isList(record.layers) &&
    record.layers.every(isDigest) &&
    Number.isSafeInteger(record.sizeBytes) &&
    typeof record.namedAt === 'number' &&
    typeof record.os === 'string' &&
    typeof record.architecture === 'string' &&
    [config?.entrypoint, config?.cmd, config?.env, config?.volumes].every(isList) &&
    [config.user, config.workingDir, config.stopSignal].every((word) => typeof word === 'string') &&
    typeof config.labels === 'object' &&
    config.labels !== null;
  if (!isWhole) throw new Error('its record is not whole');
  return record;
}
