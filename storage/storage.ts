import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError } from '#base/errors.ts';
import { labelFile } from '#base/label-file.ts';
import { Locks } from '#base/lock.ts';
import { RegistryAccess } from './access.ts';
import { withArchive } from './archive.ts';
import { checkStore } from './check.ts';
import type { ChildPool } from './child-pool.ts';
import { type ChildPools, openChildPools } from './child-pools.ts';
import type { ImageId } from './digest.ts';
import { Downloads } from './downloads.ts';
import { findImage } from './find.ts';
import type { CheckFinding, CheckOptions, CheckSummary } from './finding.ts';
import { removeIdmapped } from './idmapped.ts';
import type { Image } from './image.ts';
import { ImageStore } from './image-store.ts';
import { type InstallDeps, installImage } from './install.ts';
import type { UnpackLimits } from './jobs.ts';
import { LayerStore } from './layer-store.ts';
import type { PullOptions, StorageOptions, StorageSettings, Usage } from './options.ts';
import { createWritable, measureTree, unmount, writableDirs } from './overlay.ts';
import type { PullProgress } from './progress.ts';
import { Puller, type PullRequest, toCriError } from './pull.ts';
import { lowerDirs, mountImage, mountRootfs } from './rootfs.ts';
import { Staging } from './staging.ts';
import { Trash } from './trash.ts';
import { UnusedLayers } from './unused-layers.ts';

export type { RegistryAuth } from './auth.ts';
export { authFor } from './auth.ts';
export type { ChainId, Digest, ImageId } from './digest.ts';
export type { CheckFinding, CheckOptions, CheckSummary } from './finding.ts';
export type { Image, ImageConfig } from './image.ts';
export type { PullOptions, StorageOptions, StorageSettings, Usage } from './options.ts';
export { matchesPin } from './pin.ts';
export type { LayerProgress, PullProgress } from './progress.ts';
export { describeProgress } from './progress.ts';
export type { PullObserver, PullOutcome } from './pull.ts';

const LAYER_LIMITS: UnpackLimits = { maxBytes: 256 * 1024 ** 3, maxInodes: 20_000_000 };

type StorageDeps = InstallDeps & {
  readonly staging: Staging;
  readonly unpackers: ChildPool;
  readonly checkers: ChildPool;
  readonly trash: Trash;
  readonly limits: UnpackLimits;
};

interface StorageParts {
  readonly deps: StorageDeps;
  readonly pools: ChildPools;
  readonly downloads: Downloads;
  readonly access: RegistryAccess;
  readonly unused: UnusedLayers;
}

/** The door of `storage/`: images in a store, and root filesystems made of them. */
export class Storage implements AsyncDisposable {
  readonly #options: StorageOptions;
  #settings: StorageSettings;
  readonly #deps: StorageDeps;
  readonly #pools: ChildPools;
  readonly #downloads: Downloads;
  readonly #puller: Puller;
  readonly #access: RegistryAccess;
  readonly #unused: UnusedLayers;

  private constructor(options: StorageOptions, parts: StorageParts) {
    this.#options = options;
    this.#settings = options;
    const settings = (): StorageSettings => this.#settings;
    this.#deps = parts.deps;
    this.#pools = parts.pools;
    this.#downloads = parts.downloads;
    this.#access = parts.access;
    this.#unused = parts.unused;
    this.#puller = new Puller({
      ...parts.deps,
      fetchers: parts.pools.fetchers,
      downloads: parts.downloads,
      maxParallelDownloads: options.maxParallelDownloads,
      access: parts.access,
      get progressTimeoutMs() {
        return settings().pullProgressTimeoutMs;
      },
      observe: options.observe ?? { received: () => {}, retried: () => {}, pulled: () => {} },
    });
  }

  /**
   * Opens the store, or makes a new one. What a crash left half made goes, deleted in the background; a damaged record
   * or layer costs the images that use it, never the store.
   */
  static async open(options: StorageOptions): Promise<Storage> {
    const { root, log, proxyEnv, certificates, limits = LAYER_LIMITS } = options;
    await mkdir(root, { recursive: true, mode: 0o700 });
    await removeIdmapped(root);
    const trash = await Trash.open(join(root, 'trash'), log);
    const staging = await Staging.open(join(root, 'staging'), trash);
    const downloads = await Downloads.open(join(root, 'downloads'), { staging, log });
    const pools = openChildPools({ proxyEnv, certificates });
    const { unpackers, checkers } = pools;
    const layers = await LayerStore.open(root, { staging, trash, unpackers, limits, log });
    const images = await ImageStore.open(root, { pins: options.pinnedImages, hasLayer: (chainId) => layers.has(chainId), log });
    const deps = { root, log, layers, images, staging, unpackers, checkers, trash, limits, locks: new Locks() };
    const unused = new UnusedLayers(deps);
    await unused.sweep();
    return new Storage(options, { deps, pools, downloads, unused, access: await RegistryAccess.open(options, log) });
  }

  /**
   * Makes ready for other settings: the files that they name are read. Nothing has changed until the returned function is
   * called, which cannot fail; pulls under way go on with what they began with.
   * @throws {CriError} naming the file that is wrong.
   */
  async prepare(settings: StorageSettings): Promise<() => void> {
    const commit = await this.#access.prepare(settings);
    return () => {
      commit();
      this.#settings = settings;
      this.#puller.setParallel(settings.maxParallelDownloads);
      this.#deps.images.setPins(settings.pinnedImages);
    };
  }

  /**
   * Brings an image here by its name; see `Puller.pull` for the failures. Equal pulls under way are joined: those of one
   * reference with the same credentials for the same runtime handler, under the same signature policy.
   */
  async pull(reference: string, { signal, ...options }: PullOptions & { readonly signal: AbortSignal }): Promise<Image> {
    try {
      return await this.#puller.pull(this.#request(reference, options), signal);
    } catch (err) {
      this.#unused.sweepLater();
      throw err;
    }
  }

  /** The pulls in flight, the oldest first. */
  pulls(): PullProgress[] {
    return this.#puller.progress();
  }

  /** How far one pull has come: `undefined` when it is not in flight. */
  pullProgress(reference: string, options: PullOptions): PullProgress | undefined {
    return this.#puller.progressOf(this.#request(reference, options));
  }

  /** Brings in the images of a docker archive, an OCI archive or an OCI layout directory. `name` names a single one. */
  async load(path: string, options: { signal: AbortSignal; name?: string }): Promise<Image[]> {
    try {
      const loaded = await withArchive(this.#deps, path, options, (source) => installImage(this.#deps, source, options.signal));
      // The last state of each: an image with several names has come several times.
      return [...new Set(loaded.map(({ id }) => id))].flatMap((id) => this.#deps.images.get(id) ?? []);
    } catch (err) {
      this.#unused.sweepLater();
      options.signal.throwIfAborted();
      throw toCriError(err, `load ${path}`, this.#options.root);
    }
  }

  images(): readonly Image[] {
    return this.#deps.images.list();
  }

  /** By id (whole, or a prefix that only one image has, with or without `sha256:`) or by name, short or whole. */
  find(nameOrId: string): Image | undefined {
    return findImage(this.#deps.images, this.#access.conf, nameOrId);
  }

  /** The whole JSON of an image's config, from the disk. @throws {CriError} `unknown` when it cannot be read. */
  readConfig(image: ImageId): Promise<unknown> {
    return this.#deps.images.readConfig(image);
  }

  /**
   * Forgets an image and all its names; its layers are freed where no other image has them, and are off the disk when this
   * resolves. Removing what is not there succeeds.
   * @throws {CriError} `failedPrecondition` naming who uses the image.
   */
  async remove(image: ImageId, { signal }: { signal: AbortSignal }): Promise<void> {
    const { images, layers, locks } = this.#deps;
    {
      await using _turn = await locks.acquire(image, signal);
      const user = this.#options.usedBy?.(image);
      if (user !== undefined) throw new CriError('failedPrecondition', `image ${image} is in use by ${user}`);
      await images.delete(image); // out of sight in the same step as the question above
    }
    await (await layers.sweep(() => images.usedLayers())).gone;
  }

  /**
   * Looks for what is missing, altered or orphaned; the store goes on being used. `onFinding` is told of each as it is found.
   * What a repair would cost images that somebody uses is left, and said.
   */
  async check(options: CheckOptions, onFinding: (finding: CheckFinding) => void): Promise<CheckSummary> {
    const { log, observe, usedBy } = this.#options;
    const started = performance.now();
    const summary = await checkStore({ ...this.#deps, usedBy: (image) => usedBy?.(image) }, options, (finding) => {
      const { kind, what, id, message, images, repaired } = finding;
      log.warn(
        { path: id, image: images.join(' '), reason: `${kind} ${what}: ${message}`, step: repaired ? 'repaired' : 'found' },
        'Found damage in the image store',
      );
      observe?.found?.(kind);
      onFinding(finding);
    });
    log.info({ count: summary.findings, durationMs: Math.round(performance.now() - started) }, 'Checked the image store');
    return summary;
  }

  /** What images take on disk: a sum of what was counted when they were unpacked. `mountpoint` is the store's root. */
  fsInfo(): Usage & { readonly mountpoint: string } {
    const { bytes, inodes } = this.#deps.layers.total();
    return { mountpoint: this.#options.root, usedBytes: bytes, inodesUsed: inodes };
  }

  /**
   * The directories of an image's layers, uppermost first, as overlay wants them.
   * @throws {CriError} `notFound`.
   */
  lowerDirs(image: ImageId): string[] {
    return lowerDirs(this.#deps, image);
  }

  /**
   * Gives what is unpacked from now on an SELinux context. An overlay's own hides it, but not from the kernel where a
   * program maps a file: that is the layer's. Files take it over from the directory that they are made in.
   */
  labelLayers(label: string): void {
    for (const name of ['staging', 'layers']) labelFile(join(this.#deps.root, name), label);
  }

  /** Makes the directories of a container's writable layer, `upper` and `work`. */
  createRootfs(containerDir: string): Promise<void> {
    return createWritable(containerDir);
  }

  /**
   * Mounts an image's layers with the container's own on top at `target`, which must exist.
   * With `userns`, the path of a user namespace, the image's files belong to whom that maps their owners to. With `label`, all
   * that is seen there has this SELinux context.
   * @throws {CriError} `notFound` when the image is gone; {SysError} from the kernel.
   */
  mountRootfs(
    image: ImageId,
    containerDir: string,
    target: string,
    options: { volatile?: boolean; userns?: string | undefined; label?: string | undefined } = {},
  ): Promise<void> {
    return mountRootfs(this.#deps, image, { ...options, containerDir, target });
  }

  /**
   * Mounts an image's layers read-only at `target`, which must exist; without devices and setuid. Each caller has a mount
   * of its own, which outlives the daemon; the layers are not freed while it is there, nor is the image removed while
   * `usedBy` names somebody. `userns` and `label` as in `mountRootfs`.
   * @throws {CriError} `notFound` when the image is gone; {SysError} from the kernel.
   */
  mountImage(image: ImageId, target: string, { userns, label }: { userns?: string | undefined; label?: string | undefined } = {}): Promise<void> {
    return mountImage(this.#deps, image, { target, userns, label });
  }

  /** Takes the mount of an image down, lazily if it is in use. Safe to repeat. */
  unmountImage(target: string): Promise<void> {
    return unmount(target);
  }

  /** Takes a root filesystem down, lazily if it is in use. Safe to repeat. */
  unmountRootfs(target: string): Promise<void> {
    return unmount(target);
  }

  /** Walks a container's writable layer: for the background only. */
  writableUsage(containerDir: string, signal: AbortSignal): Promise<Usage> {
    return measureTree(writableDirs(containerDir).upper, signal);
  }

  /** Ends pulls and children. What they had half made goes at the next start, if not at once. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#unused[Symbol.dispose]();
    this.#access[Symbol.dispose]();
    await this.#puller[Symbol.asyncDispose]();
    this.#downloads[Symbol.dispose]();
    await this.#deps.layers[Symbol.asyncDispose]();
    await this.#pools[Symbol.asyncDispose]();
    await this.#deps.trash[Symbol.asyncDispose]();
  }

  #request(reference: string, { auth, handler = '', namespace = '' }: PullOptions): PullRequest {
    return { reference, auth, handler, policy: this.#access.policyPath(namespace) };
  }
}
