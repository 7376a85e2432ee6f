import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError } from '#base/errors.ts';
import { Locks } from '#base/lock.ts';
import type { Log } from '#base/log.ts';
import { type AccessFiles, RegistryAccess } from './access.ts';
import { withArchive } from './archive.ts';
import type { RegistryAuth } from './auth.ts';
import { CERTIFICATE_DIRECTORIES } from './certs.ts';
import { checkStore } from './check.ts';
import { ChildPool } from './child-pool.ts';
import type { ImageId } from './digest.ts';
import { Downloads } from './downloads.ts';
import type { CheckFinding, CheckOptions, CheckSummary } from './finding.ts';
import { removeIdmapped, withIdmapped } from './idmapped.ts';
import type { Image } from './image.ts';
import { ImageStore } from './image-store.ts';
import { type InstallDeps, installImage } from './install.ts';
import type { UnpackLimits } from './jobs.ts';
import { LayerStore } from './layer-store.ts';
import { createWritable, measureTree, mountReadOnly, mountWritable, unmount, writableDirs } from './overlay.ts';
import type { PullProgress } from './progress.ts';
import { Puller, type PullObserver, type PullRequest, toCriError } from './pull.ts';
import { type ImageReference, parseReference, repositoryName } from './reference.ts';
import { Staging } from './staging.ts';
import { Trash } from './trash.ts';

export type { RegistryAuth } from './auth.ts';
export { authFor } from './auth.ts';
export type { ChainId, Digest, ImageId } from './digest.ts';
export type { CheckFinding, CheckOptions, CheckSummary } from './finding.ts';
export type { Image, ImageConfig } from './image.ts';
export { matchesPin } from './pin.ts';
export type { LayerProgress, PullProgress } from './progress.ts';
export { describeProgress } from './progress.ts';
export type { PullObserver, PullOutcome } from './pull.ts';

/** What may change while the store is open. */
export interface StorageSettings extends AccessFiles {
  /** Layers that are downloaded at once, of all pulls together; at most `MAX_DOWNLOADS`. */
  readonly maxParallelDownloads: number;
  /** A connection that makes no progress for so long ends its pull. */
  readonly pullProgressTimeoutMs: number;
  /** Patterns, see `matchesPin`. */
  readonly pinnedImages: readonly string[];
}

export interface StorageOptions extends StorageSettings {
  /** Everything lies below it, on one file system. */
  readonly root: string;
  readonly log: Log;
  /** HTTPS_PROXY, HTTP_PROXY and NO_PROXY for the pulls; default none. */
  readonly proxyEnv?: Readonly<Record<string, string>>;
  /** Certificates of registries, in a directory for each host; default where containers-certs.d(5) has them. */
  readonly certificates?: readonly string[];
  /**
   * Names who uses an image, such as `container <id>`: it is not removed then. Asked at the moment of a removal, so that a
   * user whose record is written before the image is mounted never loses it.
   */
  usedBy?(image: ImageId): string | undefined;
  /** What a single layer may come to. Default 256 GiB and 20 million files: no image comes near, a bomb ends there. */
  readonly limits?: UnpackLimits;
  readonly observe?: PullObserver & { found?(kind: CheckFinding['kind']): void };
}

/** What a directory or the whole store takes on disk. */
export interface Usage {
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

export interface PullOptions {
  readonly auth?: RegistryAuth;
  /** The runtime handler that the image is for; empty for the default. */
  readonly handler?: string;
  /** Of the pod that wants it, for its signature policy. */
  readonly namespace?: string;
}

/** One for each core of a small node. */
const UNPACKERS = 2;
/** How many layers the downloader takes at once, whatever the settings say. */
const MAX_DOWNLOADS = 64;
/** Manifests and configs at once, beside the layers: they do not wait for those. */
const SMALL_FETCHES = 16;
const CHILD_IDLE_MS = 10_000;
const LAYER_LIMITS: UnpackLimits = { maxBytes: 256 * 1024 ** 3, maxInodes: 20_000_000 };
/** Layers of a pull that failed are kept so long for the next try. The kubelet's longest pause is 5 minutes. */
const UNUSED_LAYERS_MS = 10 * 60_000;
/** Mount options are one page: from here on layers go by short names. */
const MANY_LAYERS = 25;
/** Shorter prefixes of an id are too likely to be meant as a name. */
const MIN_PREFIX = 3;
/** Certificates of the node's own authorities, where distributions keep them. Node has only Mozilla's built in. */
const CERTIFICATE_FILES = ['/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt'];

type StorageDeps = InstallDeps & {
  readonly staging: Staging;
  readonly unpackers: ChildPool;
  readonly checkers: ChildPool;
  readonly trash: Trash;
  readonly limits: UnpackLimits;
};

/** The door of `storage/`: images in a store, and root filesystems made of them. */
export class Storage implements AsyncDisposable {
  readonly #options: StorageOptions;
  #settings: StorageSettings;
  readonly #deps: StorageDeps;
  readonly #fetchers: ChildPool;
  readonly #downloads: Downloads;
  readonly #puller: Puller;
  readonly #access: RegistryAccess;
  #sweeping: NodeJS.Timeout | undefined;

  private constructor(options: StorageOptions, parts: { deps: StorageDeps; fetchers: ChildPool; downloads: Downloads; access: RegistryAccess }) {
    this.#options = options;
    this.#settings = options;
    const settings = (): StorageSettings => this.#settings;
    this.#deps = parts.deps;
    this.#fetchers = parts.fetchers;
    this.#downloads = parts.downloads;
    this.#access = parts.access;
    this.#puller = new Puller({
      ...parts.deps,
      fetchers: parts.fetchers,
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
    const { root, log, proxyEnv, certificates = CERTIFICATE_DIRECTORIES, limits = LAYER_LIMITS } = options;
    await mkdir(root, { recursive: true, mode: 0o700 });
    await removeIdmapped(root);
    const trash = await Trash.open(join(root, 'trash'), log);
    const staging = await Staging.open(join(root, 'staging'), trash);
    const downloads = await Downloads.open(join(root, 'downloads'), { staging, log });
    const unpacking = { entry: 'unpack-child', jobsEach: 1, cancelBy: 'kill', idleMs: CHILD_IDLE_MS } as const;
    const unpackers = new ChildPool({ ...unpacking, processes: UNPACKERS });
    const checkers = new ChildPool({ ...unpacking, processes: 1 });
    const authorities = CERTIFICATE_FILES.find((path) => existsSync(path));
    const env = {
      ...(authorities === undefined ? {} : { NODE_EXTRA_CA_CERTS: authorities }),
      ...proxyEnv,
      BERTH_CERTIFICATES: JSON.stringify(certificates),
    };
    const fetchers = new ChildPool({
      entry: 'fetch-child',
      processes: 1,
      jobsEach: MAX_DOWNLOADS + SMALL_FETCHES,
      cancelBy: 'message',
      idleMs: CHILD_IDLE_MS,
      env,
    });
    const layers = await LayerStore.open(root, { staging, trash, unpackers, limits, log });
    const images = await ImageStore.open(root, { pins: options.pinnedImages, hasLayer: (chainId) => layers.has(chainId), log });
    await layers.sweep(() => images.usedLayers());
    const deps = { root, log, layers, images, staging, unpackers, checkers, trash, limits, locks: new Locks() };
    return new Storage(options, { deps, fetchers, downloads, access: await RegistryAccess.open(options, log) });
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
      this.#sweepLater();
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
      this.#sweepLater();
      options.signal.throwIfAborted();
      throw toCriError(err, `load ${path}`, this.#options.root);
    }
  }

  images(): readonly Image[] {
    return this.#deps.images.list();
  }

  /** By id (whole, or a prefix that only one image has, with or without `sha256:`) or by name, short or whole. */
  find(nameOrId: string): Image | undefined {
    const { images } = this.#deps;
    const hex = /^(?:sha256:)?([0-9a-f]{1,64})$/.exec(nameOrId)?.[1];
    if (hex?.length === 64) return images.get(`sha256:${hex}` as ImageId);
    for (const name of this.#namesOf(nameOrId)) {
      const repository = repositoryName(name);
      const found = name.digest === undefined ? images.byTag(`${repository}:${name.tag}`) : images.byDigest(`${repository}@${name.digest}`);
      if (found !== undefined) return found;
    }
    return hex === undefined || hex.length < MIN_PREFIX ? undefined : images.byPrefix(hex);
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
    await layers.sweep(() => images.usedLayers());
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
    return this.#deps.layers.directories(this.#image(image).layers);
  }

  /** Makes the directories of a container's writable layer, `upper` and `work`. */
  createRootfs(containerDir: string): Promise<void> {
    return createWritable(containerDir);
  }

  /**
   * Mounts an image's layers with the container's own on top at `target`, which must exist.
   * With `userns`, the path of a user namespace, the image's files belong to whom that maps their owners to.
   * @throws {CriError} `notFound` when the image is gone; {SysError} from the kernel.
   */
  async mountRootfs(
    image: ImageId,
    containerDir: string,
    target: string,
    { volatile = true, userns }: { volatile?: boolean; userns?: string | undefined } = {},
  ): Promise<void> {
    const { layers } = this.#image(image);
    using _held = this.#deps.layers.hold(layers);
    const full = this.#deps.layers.directories(layers);
    const lower = full.length <= MANY_LAYERS ? full : await this.#deps.layers.shortDirectories(layers);
    const mountOn = (dirs: readonly string[]): Promise<void> => mountWritable(dirs, containerDir, target, { volatile });
    await (userns === undefined ? mountOn(lower) : withIdmapped(this.#options.root, lower, userns, mountOn));
  }

  /**
   * Mounts an image's layers read-only at `target`, which must exist; without devices and setuid. Each caller has a mount
   * of its own, which outlives the daemon; the layers are not freed while it is there, nor is the image removed while
   * `usedBy` names somebody. `userns` as in `mountRootfs`.
   * @throws {CriError} `notFound` when the image is gone; {SysError} from the kernel.
   */
  async mountImage(image: ImageId, target: string, { userns }: { userns?: string | undefined } = {}): Promise<void> {
    const { layers } = this.#image(image);
    using _held = this.#deps.layers.hold(layers);
    const lower = await this.#deps.layers.readOnlyDirectories(layers);
    const mountOn = (dirs: readonly string[]): Promise<void> => mountReadOnly(dirs, target);
    await (userns === undefined ? mountOn(lower) : withIdmapped(this.#options.root, lower, userns, mountOn));
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
    clearTimeout(this.#sweeping);
    this.#access[Symbol.dispose]();
    await this.#puller[Symbol.asyncDispose]();
    this.#downloads[Symbol.dispose]();
    await this.#deps.layers[Symbol.asyncDispose]();
    await this.#fetchers[Symbol.asyncDispose]();
    await this.#deps.unpackers[Symbol.asyncDispose]();
    await this.#deps.checkers[Symbol.asyncDispose]();
    await this.#deps.trash[Symbol.asyncDispose]();
  }

  #image(id: ImageId): Image {
    const image = this.#deps.images.get(id);
    if (image === undefined) throw new CriError('notFound', `image ${id} is not in the store`);
    return image;
  }

  #namesOf(text: string): ImageReference[] {
    try {
      return this.#access.conf.candidates(parseReference(text));
    } catch (err) {
      if (err instanceof CriError) return []; // no name of any image
      throw err;
    }
  }

  #request(reference: string, { auth, handler = '', namespace = '' }: PullOptions): PullRequest {
    return { reference, auth, handler, policy: this.#access.policyPath(namespace) };
  }

  #sweepLater(): void {
    const { layers, images, log } = this.#deps;
    this.#sweeping ??= setTimeout(() => {
      this.#sweeping = undefined;
      layers.sweep(() => images.usedLayers()).catch((err: unknown) => log.warn({ err }, 'Could not free layers'));
    }, UNUSED_LAYERS_MS).unref();
  }
}
