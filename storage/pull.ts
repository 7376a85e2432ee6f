import { createHash } from 'node:crypto';
import { CriError, describeError, isErrno } from '#base/errors.ts';
import type { RegistryAccess } from './access.ts';
import { refuseOutright, verifyImage } from './admission.ts';
import type { RegistryAuth } from './auth.ts';
import { Blobs } from './blobs.ts';
import type { ChildPool } from './child-pool.ts';
import type { Digest } from './digest.ts';
import type { Downloads } from './downloads.ts';
import { Flights } from './flight.ts';
import type { Image } from './image.ts';
import { type ImageSource, type InstallDeps, installImage, type LayerSource } from './install.ts';
import { type FailureKind, JobError, type ManifestJob, type ManifestResult, type Target } from './jobs.ts';
import { type Descriptor, hostPlatform, type ImageManifest, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, parseManifest } from './manifest.ts';
import { describeProgress, type PullProgress, PullTracker } from './progress.ts';
import { formatReference, type ImageReference, parseReference, repositoryName, taggedName } from './reference.ts';
import type { Staging } from './staging.ts';

/** The kubelet may give up and ask again: work that nobody waits for goes on for so long. */
const GRACE_MS = 5_000;
/** An index may name an index, but not without end. */
const MAX_INDEX_DEPTH = 3;

export interface PullDeps extends InstallDeps {
  readonly staging: Staging;
  readonly downloads: Downloads;
  readonly fetchers: ChildPool;
  readonly progressTimeoutMs: number;
  readonly maxParallelDownloads: number;
  readonly access: RegistryAccess;
  readonly observe: PullObserver;
}

/** Told of pulls as they go. */
export interface PullObserver {
  /** Bytes that came over the network. */
  received(bytes: number): void;
  /** Requests for layers that were sent again. */
  retried(times: number): void;
  /** A pull has ended, for all who waited for it. */
  pulled(outcome: PullOutcome, seconds: number): void;
}

/** How a pull ended: well, because nobody wanted it any more, or by a failure of this kind. */
export type PullOutcome = 'success' | Exclude<FailureKind, 'needsLower'>;

/** What is asked for. Calls that are equal in all of it are one pull. */
export interface PullRequest {
  /** As the caller spelled it. */
  readonly reference: string;
  readonly auth: RegistryAuth | undefined;
  /** The runtime handler that the image is for; empty for the default. */
  readonly handler: string;
  /** File of the signature policy; empty for the system's. */
  readonly policy: string;
}

/** Pulls images. Equal pulls are one piece of work; equal blobs are fetched once, whoever wants them. */
export class Puller implements AsyncDisposable {
  readonly #deps: PullDeps;
  readonly #pulls = new Flights<Image>();
  readonly #blobs: Blobs;
  readonly #trackers = new Map<string, PullTracker>();

  constructor(deps: PullDeps) {
    this.#deps = deps;
    this.#blobs = new Blobs(deps, (digest, { bytes, retries }) => {
      deps.observe.received(bytes);
      deps.observe.retried(retries);
      for (const tracker of this.#trackers.values()) tracker.received(digest, bytes);
    });
  }

  /** Changes how many layers are downloaded at once. */
  setParallel(count: number): void {
    this.#blobs.setParallel(count);
  }

  /** The pulls in flight, the oldest first. */
  progress(): PullProgress[] {
    return [...this.#trackers].map(([key, tracker]) => tracker.view(this.#pulls.wanted(key)));
  }

  /** That of one pull; `undefined` when it is not in flight. */
  progressOf(request: PullRequest): PullProgress | undefined {
    try {
      const key = keyOf(request);
      return this.#trackers.get(key)?.view(this.#pulls.wanted(key));
    } catch (err) {
      if (err instanceof CriError) return undefined; // no reference at all
      throw err;
    }
  }

  /**
   * Brings an image into the store.
   * @throws {CriError} `invalidArgument` for a bad reference or an image that cannot run here, `notFound`, `resourceExhausted`
   * for a full disk, and `unknown` with `RegistryUnavailable: ` or `SignatureValidationFailed: ` in front, which the kubelet
   * knows.
   */
  pull(request: PullRequest, signal: AbortSignal): Promise<Image> {
    const key = keyOf(request);
    return this.#pulls.join(key, (shared) => this.#tracked(key, request, shared), { signal, graceMs: GRACE_MS });
  }

  async #tracked(key: string, request: PullRequest, signal: AbortSignal): Promise<Image> {
    const started = performance.now();
    const tracker = new PullTracker(request.reference, (digest) => this.#blobs.progress(digest));
    this.#trackers.set(key, tracker);
    const ended = (outcome: PullOutcome): void => this.#deps.observe.pulled(outcome, (performance.now() - started) / 1_000);
    try {
      const image = await this.#anyCandidate(request, tracker, signal);
      ended('success');
      return image;
    } catch (err) {
      ended(signal.aborted ? 'cancelled' : kindOf(err));
      throw err;
    } finally {
      if (this.#trackers.get(key) === tracker) this.#trackers.delete(key);
    }
  }

  async #anyCandidate(request: PullRequest, tracker: PullTracker, signal: AbortSignal): Promise<Image> {
    const candidates = await this.#deps.access.resolve(parseReference(request.reference));
    const failures: CriError[] = [];
    for (const candidate of candidates) {
      try {
        return await this.#one(candidate, request, tracker, signal);
      } catch (err) {
        signal.throwIfAborted();
        const failure = withProgress(toCriError(err, `pull ${formatReference(candidate)}`, this.#deps.root), tracker.view(0));
        // Only after all layers have let go of theirs.
        if (failure.kind === 'resourceExhausted') await this.#deps.downloads.purge();
        if (candidates.length === 1) throw failure;
        failures.push(failure);
      }
    }
    throw joinFailures(failures);
  }

  async #one(reference: ImageReference, request: PullRequest, tracker: PullTracker, signal: AbortSignal): Promise<Image> {
    const name = formatReference(reference);
    const policy = await this.#deps.access.policy(request.policy);
    refuseOutright(reference, policy);
    const targets = await this.#deps.access.targets(reference, request.auth);
    const { manifest, top, own, from } = await this.#manifest(targets, reference, name, signal);
    // At each pull, of what is in the store already as well: the policy may be another than last time.
    await verifyImage({
      reference,
      policy,
      digests: own === top ? [top] : [own, top],
      fetchManifest: (tag) => this.#fetchManifest(from, { reference: tag }, signal),
      fetchText: (blob) => this.#blobs.text(from, blob, signal),
    });
    const configText = await this.#config(from, manifest.config, name, signal);
    tracker.begin(manifest.layers, from[0]?.host ?? '');
    const source: ImageSource = {
      name,
      configText,
      layers: manifest.layers.map((layer, index) => this.#layer(from, layer, () => tracker.layerDone(index))),
      onLayers: () => {
        tracker.stage = 'commit';
      },
      names: { tag: taggedName(reference), digest: `${repositoryName(reference)}@${top}` },
    };
    return installImage(this.#deps, source, signal);
  }

  /**
   * The image's manifest, through an index where there is one. `top` is the digest of what the name stands for, `own` that of
   * the manifest; `from` has the target that answered first in line.
   */
  async #manifest(
    targets: readonly Target[],
    reference: ImageReference,
    name: string,
    signal: AbortSignal,
  ): Promise<{ manifest: ImageManifest; top: Digest; own: Digest; from: readonly Target[] }> {
    let found = await this.#fetchManifest(targets, { reference: reference.digest ?? reference.tag ?? 'latest' }, signal);
    const top = found.digest;
    const first = targets[found.target];
    const from = first === undefined ? targets : [first, ...targets.filter((target) => target !== first)];
    for (let depth = 0; depth <= MAX_INDEX_DEPTH; depth += 1) {
      const parsed = parseManifest(found.text, found.contentType, hostPlatform(), name);
      if ('image' in parsed) return { manifest: parsed.image, top, own: found.digest, from };
      if (parsed.next.sizeBytes > MAX_MANIFEST_BYTES) break;
      found = await this.#fetchManifest(from, { reference: parsed.next.digest, sizeBytes: parsed.next.sizeBytes }, signal);
    }
    throw new CriError('invalidArgument', `image ${name} has an index that leads to no manifest`);
  }

  #fetchManifest(from: readonly Target[], which: Pick<ManifestJob, 'reference' | 'sizeBytes'>, signal: AbortSignal): Promise<ManifestResult> {
    return this.#deps.fetchers.run({ op: 'manifest', targets: from, ...which, idleMs: this.#deps.progressTimeoutMs } satisfies ManifestJob, signal);
  }

  async #config(targets: readonly Target[], config: Descriptor, name: string, signal: AbortSignal): Promise<string> {
    if (config.sizeBytes > MAX_CONFIG_BYTES)
      throw new CriError('invalidArgument', `image ${name} has a config of ${config.sizeBytes} bytes, more than ${MAX_CONFIG_BYTES}`);
    return this.#blobs.text(targets, config, signal);
  }

  #layer(targets: readonly Target[], layer: Descriptor, onDone: () => void): LayerSource {
    return {
      sizeBytes: layer.sizeBytes,
      withBlob: (use, signal) => this.#blobs.withLayer(targets, layer, (path) => use({ path, unverified: undefined }), signal),
      onDone,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const reason = new DOMException('storage is closing', 'AbortError');
    await this.#pulls.abortAll(reason);
    await this.#blobs[Symbol.asyncDispose]();
  }
}

/** Digested, since it holds credentials. The platform is always this machine's. */
function keyOf({ reference, auth, handler, policy }: PullRequest): string {
  const { qualified } = parseReference(reference);
  const name = formatReference(parseReference(reference));
  return createHash('sha256')
    .update(JSON.stringify([name, qualified, handler, policy, auth ?? null]))
    .digest('hex');
}

/** Says how far a pull had come whose layers were on their way. */
function withProgress(err: CriError, progress: PullProgress): CriError {
  if (progress.stage !== 'layers' || progress.totalBytes === 0) return err;
  return new CriError(err.kind, `${err.message} (${describeProgress(progress)})`, { cause: err.cause });
}

function kindOf(err: unknown): PullOutcome {
  const cause = err instanceof CriError ? (err.cause ?? err) : err;
  if (cause instanceof JobError) return cause.kind === 'needsLower' ? 'other' : cause.kind;
  if (!(cause instanceof CriError)) return isErrno(cause, 'ENOSPC', 'EDQUOT') ? 'noSpace' : 'other';
  if (cause.kind === 'notFound') return 'notFound';
  return cause.kind === 'invalidArgument' ? 'refused' : 'other';
}

/** What the kubelet recognises, and nothing else, at the beginning of a message of the kind `unknown`. */
const KNOWN_FAILURES = /^(RegistryUnavailable|SignatureValidationFailed): /;

/** Of several names that were tried for a short one. A known word stays in front when it is true of all of them. */
function joinFailures(failures: readonly CriError[]): CriError {
  const text = failures.map(({ message }) => message.replace(KNOWN_FAILURES, '')).join('; ');
  if (failures.every(({ kind }) => kind === 'notFound')) return new CriError('notFound', text);
  const words = new Set(failures.map(({ message }) => KNOWN_FAILURES.exec(message)?.[0] ?? ''));
  return new CriError('unknown', `${words.size === 1 ? [...words].join('') : ''}${text}`);
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
