import { mkdir, readdir, readlink, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { syncDirectory } from '#base/atomic-file.ts';
import { isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { ChildPool } from './child-pool.ts';
import { type ChainId, hexOf, isDigest } from './digest.ts';
import { Flights } from './flight.ts';
import type { UnpackLimits, UnpackResult, VerifyJob, VerifyResult } from './jobs.ts';
import { type LayerRecord, type LayerSize, LIST, RECORD, readRecord } from './layer-record.ts';
import { type LayerBlob, type LayerPlan, makeDiff, unpackLayer } from './layer-unpack.ts';
import { mountedLayers, SHORT_NAME_LENGTH } from './mounted.ts';
import type { Staging } from './staging.ts';
import type { Discarded, Trash } from './trash.ts';

interface LayerStoreParts {
  readonly staging: Staging;
  readonly trash: Trash;
  readonly unpackers: ChildPool;
  readonly limits: UnpackLimits;
}

/**
 * Unpacked layers, each a directory `layers/<chain id>/diff` that no one writes to again. A layer counts only once it has
 * its place by a rename; whether it is on the disk for good is the business of who writes the image's record.
 */
export class LayerStore implements AsyncDisposable {
  readonly #root: string;
  readonly #staging: Staging;
  readonly #trash: Trash;
  readonly #unpackers: ChildPool;
  readonly #limits: UnpackLimits;
  readonly #layers = new Map<ChainId, LayerRecord>();
  readonly #flights = new Flights<void>();
  #making = 0;
  readonly #held = new Map<ChainId, number>();
  /** Layers on their way out, by when they have left their place. */
  readonly #leaving = new Map<ChainId, Promise<void>>();

  private constructor(root: string, parts: LayerStoreParts) {
    this.#root = root;
    this.#staging = parts.staging;
    this.#trash = parts.trash;
    this.#unpackers = parts.unpackers;
    this.#limits = parts.limits;
  }

  /** Reads the sizes of all layers. One without a readable record was never finished, and goes. */
  static async open(root: string, parts: LayerStoreParts & { log: Log }): Promise<LayerStore> {
    const store = new LayerStore(root, parts);
    await mkdir(join(root, 'layers'), { recursive: true, mode: 0o700 });
    await mkdir(join(root, 'l'), { recursive: true, mode: 0o700 });
    for (const path of [store.#emptyDir, store.#emptyBelow]) await mkdir(path, { recursive: true, mode: 0o755 });
    for (const name of await readdir(join(root, 'layers'))) {
      const path = join(root, 'layers', name);
      const record = await readRecord(path);
      const chainId = `sha256:${name}`;
      if (record !== undefined && isDigest(chainId)) store.#layers.set(chainId as ChainId, record);
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
      inodes += layer.inodes + 4; // its own directories, record and list
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

  /** All layers there are, whether an image has them or not. */
  list(): ChainId[] {
    return [...this.#layers.keys()];
  }

  /** True for what the store has, or is about to have, by this name of a directory in `layers/`. */
  knows(name: string): boolean {
    const chainId = `sha256:${name}` as ChainId;
    return this.#layers.has(chainId) || this.#leaving.has(chainId) || this.#flights.has(chainId);
  }

  /** Compares a layer with what was unpacked, in a child of `checkers`. `undefined` for one that goes meanwhile: it may. */
  async verify(chainId: ChainId, { checkers, full, signal }: { checkers: ChildPool; full: boolean; signal: AbortSignal }): Promise<VerifyResult | undefined> {
    const record = this.#layers.get(chainId);
    if (record === undefined) return undefined;
    const path = join(this.#root, 'layers', hexOf(chainId));
    const job: VerifyJob = { op: 'verify', dir: join(path, 'diff'), list: join(path, LIST), seal: record.seal, full };
    const result: VerifyResult =
      (await readRecord(path)) === undefined
        ? { problem: { kind: 'damaged', message: `its ${RECORD} cannot be used` }, count: 1 }
        : await checkers.run<VerifyResult>(job, signal);
    return this.#layers.get(chainId) === record ? result : undefined;
  }

  /** Why a layer cannot be taken away now; `undefined` when it can. */
  async obstacle(chainId: ChainId): Promise<string | undefined> {
    const isMounted = await mountedLayers(this.#root);
    if (isMounted(chainId)) return 'it is mounted';
    return this.#held.has(chainId) ? 'an image is being made of it' : undefined;
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
   * Frees every layer that no image has, that is not held and that nothing is mounted of, and resolves when they have left
   * their places. `used` is asked at the very moment, since images come and go meanwhile.
   */
  async sweep(used: () => ReadonlySet<ChainId>): Promise<Discarded> {
    if (this.#unused(used()).length === 0) return { gone: Promise.resolve() };
    const isMounted = await mountedLayers(this.#root);
    const freed = this.#unused(used()).filter((chainId) => !isMounted(chainId));
    const discarded = await Promise.all(freed.map((chainId) => this.#free(chainId)));
    return { gone: Promise.all(discarded.map(({ gone }) => gone)).then(() => {}) };
  }

  /**
   * Takes a layer out of the store, whoever else may want it: what is made of it from this call on is unpacked anew. It
   * leaves its place once the records of its images are gone from the disk; where those cannot go, it stays.
   */
  async drop(chainId: ChainId, recordsGone: Promise<unknown>): Promise<void> {
    if (!this.#layers.has(chainId)) await recordsGone;
    else await (await this.#free(chainId, recordsGone)).gone;
  }

  #unused(used: ReadonlySet<ChainId>): ChainId[] {
    return [...this.#layers.keys()].filter((chainId) => !used.has(chainId) && !this.#held.has(chainId));
  }

  async #free(chainId: ChainId, recordsGone: Promise<unknown> = Promise.resolve()): Promise<Discarded> {
    const record = this.#layers.get(chainId);
    this.#layers.delete(chainId);
    const taken = recordsGone.then(
      () => this.#trash.take(join(this.#root, 'layers', hexOf(chainId))),
      (err: unknown) => {
        if (record !== undefined) this.#layers.set(chainId, record);
        throw err;
      },
    );
    const left = taken.then(() => rm(this.#link(chainId), { force: true })).catch(() => {});
    this.#leaving.set(chainId, left);
    try {
      return await taken;
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
    this.#making += 1;
    this.#unpackers.warm(this.#making); // while the blob is fetched
    try {
      await mkdir(path, { mode: 0o700 });
      await makeDiff(diff);
      const { bytes, inodes, seal } = await plan.withBlob((blob) => this.#unpack(plan, { path, blob, signal }), signal);
      if (seal === undefined) throw new Error(`no list was made of layer ${plan.chainId}`);
      const record: LayerRecord = { bytes: bytes + seal.bytes, inodes, seal };
      await writeFile(join(path, RECORD), JSON.stringify(record));
      if (this.#layers.has(plan.chainId)) {
        // By work whose callers had left, which was too far to be ended. It may be mounted by now.
        await this.#staging.discard(path);
        return;
      }
      const place = join(this.#root, 'layers', hexOf(plan.chainId));
      await this.#trash.take(place); // left there by a sweep that could not finish
      await rename(path, place);
      await syncDirectory(join(this.#root, 'layers'));
      this.#layers.set(plan.chainId, record);
    } catch (err) {
      await this.#staging.discard(path);
      throw err;
    } finally {
      this.#making -= 1;
    }
  }

  #unpack(plan: LayerPlan, from: { path: string; blob: LayerBlob; signal: AbortSignal }): Promise<UnpackResult> {
    return unpackLayer({ unpackers: this.#unpackers, trash: this.#trash, limits: this.#limits, stack: this }, plan, from);
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
