import type { Digest } from './digest.ts';
import type { BlobReport } from './jobs.ts';

/** Over how long the rate is taken. */
const WINDOW_MS = 5_000;
const MIB = 1024 * 1024;

/** Where a layer is. `present` was in the store before, or came with another pull. */
export type LayerState = 'waiting' | 'downloading' | 'unpacking' | 'done' | 'present';

/** A layer of a pull in flight, for whoever watches. */
export interface LayerProgress {
  readonly digest: Digest;
  readonly state: LayerState;
  /** Compressed, as the manifest says. */
  readonly totalBytes: number;
  /** On this disk, with what an earlier try had left. */
  readonly receivedBytes: number;
  /** `host[:port]` it comes from; empty before it is asked. */
  readonly source: string;
  readonly retries: number;
}

/** A pull in flight, for whoever watches. */
export interface PullProgress {
  /** As it was asked for. */
  readonly image: string;
  /** What it is busy with: looking for the manifest, bringing in layers, or making them one image on the disk. */
  readonly stage: 'manifest' | 'layers' | 'commit';
  /** RFC 3339. */
  readonly startedAt: string;
  readonly elapsedSeconds: number;
  /** Calls that wait for it. */
  readonly waiters: number;
  /** Of the layers that have to come, without those that are here. */
  readonly totalBytes: number;
  readonly receivedBytes: number;
  /** From the network, over the last five seconds. */
  readonly bytesPerSecond: number;
  readonly retries: number;
  /** Where the bytes come from, or came from last. */
  readonly source: string;
  readonly layersDone: number;
  readonly layers: readonly LayerProgress[];
  /** All of it in a line for people; see `describeProgress`. */
  readonly summary: string;
}

/** How far a blob has come that one or more pulls want. */
export class BlobProgress {
  readonly totalBytes: number;
  state: 'waiting' | 'downloading' | 'unpacking' = 'waiting';
  receivedBytes = 0;
  fetchedBytes = 0;
  source = '';
  retries = 0;

  constructor(totalBytes: number) {
    this.totalBytes = totalBytes;
  }

  /** Takes a report of one job in; gives what is new since the last one. A job that follows another begins at nothing. */
  take({ receivedBytes, fetchedBytes, source, retries }: BlobReport): { bytes: number; retries: number } {
    const news = { bytes: since(this.fetchedBytes, fetchedBytes), retries: since(this.retries, retries) };
    this.receivedBytes = receivedBytes;
    this.fetchedBytes = fetchedBytes;
    if (source !== '') this.source = source;
    this.retries = retries;
    return news;
  }
}

function since(before: number, now: number): number {
  return now >= before ? now - before : now;
}

/** Bytes per second over the last seconds, which falls to nothing when nothing comes. */
export class Rate {
  readonly #samples: { atMs: number; bytes: number }[] = [];

  add(bytes: number, nowMs: number): void {
    this.#forget(nowMs);
    this.#samples.push({ atMs: nowMs, bytes });
  }

  perSecond(sinceMs: number, nowMs: number): number {
    this.#forget(nowMs);
    const sum = this.#samples.reduce((total, { bytes }) => total + bytes, 0);
    return sum / (Math.max(200, Math.min(WINDOW_MS, nowMs - sinceMs)) / 1000);
  }

  #forget(nowMs: number): void {
    while ((this.#samples[0]?.atMs ?? nowMs) < nowMs - WINDOW_MS) this.#samples.shift();
  }
}

interface TrackedLayer {
  readonly digest: Digest;
  readonly totalBytes: number;
  blob: BlobProgress | undefined;
  done: boolean;
}

/** Follows one pull. */
export class PullTracker {
  readonly image: string;
  stage: PullProgress['stage'] = 'manifest';
  source = '';
  readonly #startedMs = performance.now();
  readonly #startedAt = new Date().toISOString();
  readonly #rate = new Rate();
  readonly #blobOf: (digest: Digest) => BlobProgress | undefined;
  #layers: TrackedLayer[] = [];
  #layersSinceMs = this.#startedMs;

  /** `blobOf` finds what is on its way, for whichever pull. */
  constructor(image: string, blobOf: (digest: Digest) => BlobProgress | undefined) {
    this.image = image;
    this.#blobOf = blobOf;
  }

  /** The manifest is here. */
  begin(layers: readonly { readonly digest: Digest; readonly sizeBytes: number }[], source: string): void {
    this.stage = 'layers';
    this.source = source;
    this.#layersSinceMs = performance.now();
    this.#layers = layers.map(({ digest, sizeBytes }) => ({ digest, totalBytes: sizeBytes, blob: undefined, done: false }));
  }

  /** Layer `index` is in the store. */
  layerDone(index: number): void {
    const layer = this.#layers[index];
    if (layer === undefined) return;
    layer.blob ??= this.#blobOf(layer.digest);
    layer.done = true;
  }

  /** Bytes of one of its blobs have come. */
  received(digest: Digest, bytes: number): void {
    if (this.#layers.some((layer) => layer.digest === digest)) this.#rate.add(bytes, performance.now());
  }

  view(waiters: number): PullProgress {
    const now = performance.now();
    const layers = this.#layers.map((layer) => this.#viewLayer(layer));
    const coming = layers.filter(({ state }) => state !== 'present');
    const sum = (of: (layer: LayerProgress) => number): number => coming.reduce((total, layer) => total + of(layer), 0);
    const view = {
      image: this.image,
      stage: this.stage,
      startedAt: this.#startedAt,
      elapsedSeconds: Math.round((now - this.#startedMs) / 100) / 10,
      waiters,
      totalBytes: sum(({ totalBytes }) => totalBytes),
      receivedBytes: sum(({ receivedBytes }) => receivedBytes),
      bytesPerSecond: Math.round(this.#rate.perSecond(this.#layersSinceMs, now)),
      retries: sum(({ retries }) => retries),
      source: layers.findLast(({ state, source }) => state === 'downloading' && source !== '')?.source ?? this.source,
      layersDone: layers.filter(({ state }) => state === 'done' || state === 'present').length,
      layers,
    };
    return { ...view, summary: describeProgress(view) };
  }

  #viewLayer(layer: TrackedLayer): LayerProgress {
    const { digest, totalBytes, done } = layer;
    if (!done) layer.blob = this.#blobOf(digest) ?? layer.blob;
    const blob = layer.blob;
    const state = done ? (blob === undefined ? 'present' : 'done') : (blob?.state ?? 'waiting');
    return {
      digest,
      state,
      totalBytes,
      receivedBytes: done ? totalBytes : (blob?.receivedBytes ?? 0),
      source: blob?.source ?? '',
      retries: blob?.retries ?? 0,
    };
  }
}

/** `2 of 5 layers done, 31.0 of 120.0 MiB at 0.2 MiB/s from mirror.example:5000, 3 retries`. */
export function describeProgress({
  stage,
  layers,
  layersDone,
  receivedBytes,
  totalBytes,
  bytesPerSecond,
  source,
  retries,
}: Omit<PullProgress, 'summary'>): string {
  if (stage === 'manifest') return 'its manifest has not come yet';
  const mib = (bytes: number): string => (bytes / MIB).toFixed(1);
  const from = source === '' ? '' : ` from ${source}`;
  const again = retries === 0 ? '' : `, ${retries} ${retries === 1 ? 'retry' : 'retries'}`;
  return `${layersDone} of ${layers.length} layers done, ${mib(receivedBytes)} of ${mib(totalBytes)} MiB at ${mib(bytesPerSecond)} MiB/s${from}${again}`;
}
