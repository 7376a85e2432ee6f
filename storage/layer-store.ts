import { chmod, mkdir, readdir, readFile, readlink, rename, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { orAborted } from '#base/abort.ts';
import { syncDirectory } from '#base/atomic-file.ts';
import { isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { ChildPool } from './child-pool.ts';
import { type ChainId, type Digest, hexOf, isDigest } from './digest.ts';
import { Flights } from './flight.ts';
import { JobError, type UnpackJob, type UnpackResult } from './jobs.ts';
import { mountedLayers, SHORT_NAME_LENGTH } from './mounted.ts';
import { mountpointIn, type Staging } from './staging.ts';
import type { Trash } from './trash.ts';

export interface LayerSize {
  /** Content on disk, in bytes. */
  readonly bytes: number;
  readonly inodes: number;
}

/** A layer to be made. */
export interface LayerPlan {
  readonly chainId: ChainId;
  readonly diffId: Digest;
  /** Lowest first. */
  readonly below: readonly ChainId[];
  /** Resolves when those are in the store. */
  readonly belowReady: Promise<void>;
  /** Runs `use` with the layer's blob, which is there for so long. */
  withBlob<T>(use: (blob: { path: string; unverified: Digest | undefined }) => Promise<T>, signal: AbortSignal): Promise<T>;
}

const RECORD = 'layer.json';

/**
 * Unpacked layers, each a directory `layers/<chain id>/diff` that no one writes to again. A layer counts only once it has
 * its place by a rename; whether it is on the disk for good is the business of who writes the image's record.
 */
export class LayerStore implements AsyncDisposable {
  readonly #root: string;
  readonly #staging: Staging;
  readonly #trash: Trash;
  readonly #unpackers: ChildPool;
  readonly #layers = new Map<ChainId, LayerSize>();
  readonly #flights = new Flights<void>();
  readonly #held = new Map<ChainId, number>();
  /** Layers on their way out, by when they have left their place. */
  readonly #leaving = new Map<ChainId, Promise<void>>();

  private constructor(root: string, parts: { staging: Staging; trash: Trash; unpackers: ChildPool }) {
    this.#root = root;
    this.#staging = parts.staging;
    this.#trash = parts.trash;
    this.#unpackers = parts.unpackers;
  }

  /** Reads the sizes of all layers. One without a readable record was never finished, and goes. */
  static async open(root: string, parts: { staging: Staging; trash: Trash; unpackers: ChildPool; log: Log }): Promise<LayerStore> {
    const store = new LayerStore(root, parts);
    await mkdir(join(root, 'layers'), { recursive: true, mode: 0o700 });
    await mkdir(join(root, 'l'), { recursive: true, mode: 0o700 });
    for (const path of [store.#emptyDir, store.#emptyBelow]) await mkdir(path, { recursive: true, mode: 0o755 });
    for (const name of await readdir(join(root, 'layers'))) {
      const path = join(root, 'layers', name);
      const size = await readRecord(path);
      const chainId = `sha256:${name}`;
      if (size !== undefined && isDigest(chainId)) store.#layers.set(chainId as ChainId, size);
      else {
        parts.log.warn({ path }, 'Dropped damaged layer');
        await parts.trash.take(path);
      }
    }
    return store;
  }

  has(chainId: ChainId): boolean {
    return this.#layers.has(chainId);
  }

  /** The sum over all layers. */
  total(): LayerSize {
    let bytes = 0;
    let inodes = 0;
    for (const layer of this.#layers.values()) {
      bytes += layer.bytes;
      inodes += layer.inodes + 2; // its own directory and record
    }
    return { bytes, inodes };
  }

  /** The directories of a stack given lowest first, uppermost first as overlay wants them. Never empty. */
  directories(layers: readonly ChainId[]): string[] {
    return layers.length === 0 ? [this.#emptyDir] : layers.map((chainId) => this.#diff(chainId)).reverse();
  }

  /** The same by short names: links that are made where they are missing. */
  async shortDirectories(layers: readonly ChainId[]): Promise<string[]> {
    return layers.length === 0 ? [this.#emptyDir] : (await Promise.all(layers.map((chainId) => this.#shortName(chainId)))).reverse();
  }

  /** What to mount of a stack that nobody writes to, uppermost first: overlay wants two directories at least. */
  async readOnlyDirectories(layers: readonly ChainId[]): Promise<string[]> {
    return [...(await this.shortDirectories(layers)), this.#emptyBelow];
  }

  /** Keeps layers from being freed until released: an image is being made of them. */
  hold(layers: readonly ChainId[]): Disposable {
    for (const chainId of layers) this.#held.set(chainId, (this.#held.get(chainId) ?? 0) + 1);
    return {
      [Symbol.dispose]: () => {
        for (const chainId of layers) {
          const count = (this.#held.get(chainId) ?? 0) - 1;
          if (count > 0) this.#held.set(chainId, count);
          else this.#held.delete(chainId);
        }
      },
    };
  }

  /**
   * Frees every layer that no image has, that is not held and that nothing is mounted of, and resolves when they are off
   * the disk. `used` is asked at the very moment, since images come and go meanwhile.
   */
  async sweep(used: () => ReadonlySet<ChainId>): Promise<void> {
    if (this.#unused(used()).length === 0) return;
    const isMounted = await mountedLayers(this.#root);
    const freed = this.#unused(used()).filter((chainId) => !isMounted(chainId));
    await Promise.all(freed.map((chainId) => this.#free(chainId)));
  }

  #unused(used: ReadonlySet<ChainId>): ChainId[] {
    return [...this.#layers.keys()].filter((chainId) => !used.has(chainId) && !this.#held.has(chainId));
  }

  async #free(chainId: ChainId): Promise<void> {
    this.#layers.delete(chainId);
    const taken = this.#trash.take(join(this.#root, 'layers', hexOf(chainId)));
    const left = taken.then(() => rm(this.#link(chainId), { force: true })).catch(() => {});
    this.#leaving.set(chainId, left);
    try {
      await (await taken).gone;
    } finally {
      await left;
      if (this.#leaving.get(chainId) === left) this.#leaving.delete(chainId);
    }
  }

  /** Makes a layer unless it is there. Two who want the same one share the work. */
  async ensure(plan: LayerPlan, signal: AbortSignal): Promise<void> {
    if (this.has(plan.chainId)) return;
    await this.#flights.join(plan.chainId, (shared) => this.#make(plan, shared), { signal, retryOwn: true });
  }

  async #make(plan: LayerPlan, signal: AbortSignal): Promise<void> {
    await this.#leaving.get(plan.chainId);
    const path = this.#staging.newPath('layer');
    const diff = join(path, 'diff');
    try {
      await mkdir(path, { mode: 0o700 });
      await makeDiff(diff);
      const { bytes, inodes } = await plan.withBlob((blob) => this.#unpack(plan, path, blob, signal), signal);
      const size: LayerSize = { bytes, inodes };
      await writeFile(join(path, RECORD), JSON.stringify(size));
      const place = join(this.#root, 'layers', hexOf(plan.chainId));
      await this.#trash.take(place); // left there by a sweep that could not finish
      await rename(path, place);
      await syncDirectory(join(this.#root, 'layers'));
      this.#layers.set(plan.chainId, size);
    } catch (err) {
      await this.#staging.discard(path);
      throw err;
    }
  }

  /**
   * Unpacks by itself, beside the layers below, which may still be under way. Where the layer turns out to need them
   * (a hard link into one, a path over a symlink of one), it is unpacked again over a mount of them.
   */
  async #unpack(plan: LayerPlan, path: string, blob: { path: string; unverified: Digest | undefined }, signal: AbortSignal): Promise<UnpackResult> {
    const diff = join(path, 'diff');
    const job: UnpackJob = { op: 'unpack', blob: blob.path, blobDigest: blob.unverified, diffId: plan.diffId, dir: diff, mode: 'layer', merge: undefined };
    try {
      const result = await this.#unpackers.run<UnpackResult>(job, signal);
      await orAborted(plan.belowReady, signal);
      if (result.implied.length === 0 || plan.below.length === 0) return result;
      await this.#unpackers.run({ op: 'settle', dir: diff, implied: result.implied, lower: this.directories(plan.below) }, signal);
      return result;
    } catch (err) {
      if (!(err instanceof JobError) || err.kind !== 'needsLower') throw err;
    }
    await orAborted(plan.belowReady, signal);
    await this.#trash.take(diff);
    await makeDiff(diff);
    const merge = { lower: await this.shortDirectories(plan.below), work: join(path, 'work'), mountpoint: mountpointIn(path) };
    await mkdir(merge.work, { mode: 0o700 });
    await mkdir(merge.mountpoint, { mode: 0o700 });
    const result = await this.#unpackers.run<UnpackResult>({ ...job, mode: 'merged', merge } satisfies UnpackJob, signal);
    await this.#trash.take(merge.work);
    await rmdir(merge.mountpoint);
    return result;
  }

  get #emptyDir(): string {
    return join(this.#root, 'l', 'empty');
  }

  /** One more, since a stack may not have a directory twice. */
  get #emptyBelow(): string {
    return join(this.#root, 'l', 'below');
  }

  #diff(chainId: ChainId): string {
    return join(this.#root, 'layers', hexOf(chainId), 'diff');
  }

  #link(chainId: ChainId): string {
    return join(this.#root, 'l', hexOf(chainId).slice(0, SHORT_NAME_LENGTH));
  }

  async #shortName(chainId: ChainId): Promise<string> {
    const link = this.#link(chainId);
    const target = join('..', 'layers', hexOf(chainId), 'diff');
    try {
      await symlink(target, link);
    } catch (err) {
      if (!isErrno(err, 'EEXIST')) throw err;
      if ((await readlink(link)) !== target) return this.#diff(chainId); // another layer's name begins alike
    }
    return link;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#flights.abortAll(new DOMException('storage is closing', 'AbortError'));
  }
}

async function makeDiff(path: string): Promise<void> {
  await mkdir(path);
  await chmod(path, 0o755); // the root directory of containers whose layers do not describe it; the umask applies to mkdir
}

async function readRecord(path: string): Promise<LayerSize | undefined> {
  try {
    const { bytes, inodes } = JSON.parse(await readFile(join(path, RECORD), 'utf8')) as Partial<LayerSize>;
    return typeof bytes === 'number' && typeof inodes === 'number' ? { bytes, inodes } : undefined;
  } catch {
    return undefined;
  }
}
