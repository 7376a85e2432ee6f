import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { CriError, describeError, isErrno } from '#base/errors.ts';
import { Semaphore } from '#base/lock.ts';
import { callCredentials, loadAuthFile, type RegistryAuth } from './auth.ts';
import type { ChildPool } from './child-pool.ts';
import { type Digest, hexOf } from './digest.ts';
import { Flights } from './flight.ts';
import type { Image } from './image.ts';
import { type ImageSource, type InstallDeps, installImage, type LayerSource } from './install.ts';
import { type BlobJob, JobError, type ManifestJob, type ManifestResult, type Target } from './jobs.ts';
import { type Descriptor, hostPlatform, type ImageManifest, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, parseManifest } from './manifest.ts';
import { formatReference, type ImageReference, parseReference, repositoryName, taggedName } from './reference.ts';
import type { RegistriesConf } from './registries-conf.ts';
import type { Staging } from './staging.ts';

/** The kubelet may give up and ask again: work that nobody waits for goes on for so long. */
const GRACE_MS = 5_000;
/** An index may name an index, but not without end. */
const MAX_INDEX_DEPTH = 3;

export interface PullDeps extends InstallDeps {
  readonly staging: Staging;
  readonly fetchers: ChildPool;
  readonly globalAuthFile: string;
  readonly progressTimeoutMs: number;
  readonly maxParallelDownloads: number;
  /** Reads registries.conf as it is now. */
  registries(): Promise<RegistriesConf>;
  layerPulled(bytes: number): void;
  pulled(outcome: 'success' | 'failure', seconds: number): void;
}

/** Pulls images. Equal pulls, in reference and credentials, are one piece of work; equal blobs are fetched once. */
export class Puller implements AsyncDisposable {
  readonly #deps: PullDeps;
  readonly #downloads: Semaphore;
  readonly #pulls = new Flights<Image>();
  readonly #blobs = new Flights<string>();
  readonly #blobUsers = new Map<Digest, { count: number; path: string | undefined }>();

  constructor(deps: PullDeps) {
    this.#deps = deps;
    this.#downloads = new Semaphore(deps.maxParallelDownloads);
  }

  /**
   * Brings an image into the store.
   * @throws {CriError} `invalidArgument` for a bad reference or an image that cannot run here, `notFound`, `resourceExhausted`
   * for a full disk, and `unknown` with `RegistryUnavailable: ` in front, which the kubelet knows.
   */
  pull(text: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Image> {
    const reference = parseReference(text);
    const key = createHash('sha256')
      .update(JSON.stringify([formatReference(reference), reference.qualified, auth ?? null]))
      .digest('hex');
    return this.#pulls.join(key, (shared) => this.#measured(reference, auth, shared), { signal, graceMs: GRACE_MS });
  }

  async #measured(reference: ImageReference, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Image> {
    const started = performance.now();
    const seconds = (): number => (performance.now() - started) / 1_000;
    try {
      const image = await this.#anyCandidate(reference, auth, signal);
      this.#deps.pulled('success', seconds());
      return image;
    } catch (err) {
      this.#deps.pulled('failure', seconds());
      throw err;
    }
  }

  async #anyCandidate(reference: ImageReference, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Image> {
    const conf = await this.#deps.registries();
    const candidates = conf.resolve(reference);
    const failures: CriError[] = [];
    for (const candidate of candidates) {
      try {
        return await this.#one(candidate, conf, auth, signal);
      } catch (err) {
        signal.throwIfAborted();
        const failure = toCriError(err, `pull ${formatReference(candidate)}`, this.#deps.root);
        if (candidates.length === 1) throw failure;
        failures.push(failure);
      }
    }
    const kind = failures.every((failure) => failure.kind === 'notFound') ? 'notFound' : 'unknown';
    throw new CriError(kind, failures.map(({ message }) => message).join('; '));
  }

  async #one(reference: ImageReference, conf: RegistriesConf, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Image> {
    const name = formatReference(reference);
    const targets = await this.#targets(reference, conf, auth);
    const { manifest, top, from } = await this.#manifest(targets, reference, name, signal);
    const configText = await this.#config(from, manifest.config, name, signal);
    const source: ImageSource = {
      name,
      configText,
      layers: manifest.layers.map((layer) => this.#layer(from, layer)),
      names: { tag: taggedName(reference), digest: `${repositoryName(reference)}@${top}` },
    };
    return installImage(this.#deps, source, signal);
  }

  /**
   * Where to fetch from, and what to show there. Credentials of the call are for the registry in the reference, wherever
   * its location is; a mirror is somebody else, and gets what the node's own file has for it.
   */
  async #targets(reference: ImageReference, conf: RegistriesConf, auth: RegistryAuth | undefined): Promise<Target[]> {
    const file = await loadAuthFile(this.#deps.globalAuthFile);
    const given = callCredentials(auth, reference.registry);
    return conf.endpoints(reference).map((endpoint) => {
      if (!endpoint.mirror && given.kind !== 'none') return { ...endpoint, credentials: given };
      const atEndpoint = file.find(endpoint.host, endpoint.repository);
      const isOwn = endpoint.mirror || atEndpoint.kind !== 'none';
      return { ...endpoint, credentials: isOwn ? atEndpoint : file.find(reference.registry, reference.repository) };
    });
  }

  /** The image's manifest, through an index where there is one. `from` has the target that answered first in line. */
  async #manifest(
    targets: readonly Target[],
    reference: ImageReference,
    name: string,
    signal: AbortSignal,
  ): Promise<{ manifest: ImageManifest; top: Digest; from: readonly Target[] }> {
    const fetch = (from: readonly Target[], which: Pick<ManifestJob, 'reference' | 'sizeBytes'>): Promise<ManifestResult> =>
      this.#deps.fetchers.run({ op: 'manifest', targets: from, ...which, idleMs: this.#deps.progressTimeoutMs } satisfies ManifestJob, signal);
    let found = await fetch(targets, { reference: reference.digest ?? reference.tag ?? 'latest' });
    const top = found.digest;
    const first = targets[found.target];
    const from = first === undefined ? targets : [first, ...targets.filter((target) => target !== first)];
    for (let depth = 0; depth <= MAX_INDEX_DEPTH; depth += 1) {
      const parsed = parseManifest(found.text, found.contentType, hostPlatform(), name);
      if ('image' in parsed) return { manifest: parsed.image, top, from };
      if (parsed.next.sizeBytes > MAX_MANIFEST_BYTES) break;
      found = await fetch(from, { reference: parsed.next.digest, sizeBytes: parsed.next.sizeBytes });
    }
    throw new CriError('invalidArgument', `image ${name} has an index that leads to no manifest`);
  }

  async #config(targets: readonly Target[], config: Descriptor, name: string, signal: AbortSignal): Promise<string> {
    if (config.sizeBytes > MAX_CONFIG_BYTES)
      throw new CriError('invalidArgument', `image ${name} has a config of ${config.sizeBytes} bytes, more than ${MAX_CONFIG_BYTES}`);
    return this.#withBlob(
      config.digest,
      (path, shared) => this.#fetchBlob(targets, config, path, shared),
      (path) => readFile(path, 'utf8'),
      signal,
    );
  }

  #layer(targets: readonly Target[], layer: Descriptor): LayerSource {
    const fetch = async (path: string, shared: AbortSignal): Promise<void> => {
      await this.#downloads.run(() => this.#fetchBlob(targets, layer, path, shared), shared);
      this.#deps.layerPulled(layer.sizeBytes);
    };
    return {
      sizeBytes: layer.sizeBytes,
      withBlob: (use, signal) => this.#withBlob(layer.digest, fetch, (path) => use({ path, unverified: undefined }), signal),
    };
  }

  #fetchBlob(targets: readonly Target[], { digest, sizeBytes }: Descriptor, path: string, signal: AbortSignal): Promise<void> {
    return this.#deps.fetchers.run({ op: 'blob', targets, digest, sizeBytes, path, idleMs: this.#deps.progressTimeoutMs } satisfies BlobJob, signal);
  }

  /** Runs `use` with a blob's file, which is fetched for the first who wants it and deleted after the last. */
  async #withBlob<T>(
    digest: Digest,
    fetch: (path: string, signal: AbortSignal) => Promise<void>,
    use: (path: string) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const users = this.#blobUsers.get(digest) ?? { count: 0, path: undefined };
    users.count += 1;
    this.#blobUsers.set(digest, users);
    const fetchOnce = async (shared: AbortSignal): Promise<string> => {
      if (users.path !== undefined) return users.path;
      const path = this.#deps.staging.newPath(`blob-${hexOf(digest).slice(0, 12)}`);
      try {
        await fetch(path, shared);
      } catch (err) {
        await rm(path, { force: true });
        throw err;
      }
      if (users.count === 0) await rm(path, { force: true }); // done just as the last one left
      users.path = path;
      return path;
    };
    try {
      return await use(await this.#blobs.join(digest, fetchOnce, { signal, retryOwn: true }));
    } finally {
      users.count -= 1;
      if (users.count === 0) {
        this.#blobUsers.delete(digest);
        if (users.path !== undefined) await rm(users.path, { force: true });
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const reason = new DOMException('storage is closing', 'AbortError');
    await this.#pulls.abortAll(reason);
    await this.#blobs.abortAll(reason);
  }
}

/** A failure as the caller is told. The children's messages hold no credential. */
export function toCriError(err: unknown, what: string, root: string): CriError {
  const message = `${what}: ${describeError(err)}`;
  if (err instanceof CriError) return err;
  if (isErrno(err, 'ENOSPC', 'EDQUOT') || (err instanceof JobError && err.kind === 'noSpace')) {
    return new CriError('resourceExhausted', `${message}: no space left below ${root}`, { cause: err });
  }
  const kind = err instanceof JobError ? err.kind : 'other';
  if (kind === 'unreachable') return new CriError('unknown', `RegistryUnavailable: ${message}`, { cause: err });
  if (kind === 'notFound') return new CriError('notFound', message, { cause: err });
  if (kind === 'refused') return new CriError('invalidArgument', message, { cause: err });
  return new CriError('unknown', message, { cause: err });
}
