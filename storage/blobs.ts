import { readFile, rm } from 'node:fs/promises';
import { Semaphore } from '#base/lock.ts';
import type { ChildPool } from './child-pool.ts';
import type { Digest } from './digest.ts';
import type { Downloads } from './downloads.ts';
import { Flights } from './flight.ts';
import { type BlobJob, type BlobReport, JobError, type Target } from './jobs.ts';
import type { Descriptor } from './manifest.ts';
import { BlobProgress } from './progress.ts';
import type { Staging } from './staging.ts';

export interface BlobsDeps {
  readonly staging: Staging;
  readonly downloads: Downloads;
  readonly fetchers: ChildPool;
  readonly progressTimeoutMs: number;
  readonly maxParallelDownloads: number;
}

/** A layer's blob while somebody wants it. */
interface Wanted {
  users: number;
  /** Its file is whole and verified. */
  whole: boolean;
  /** Its file is of no more use. */
  spent: boolean;
  readonly path: string;
  readonly progress: BlobProgress;
}

/** Told of bytes that have come over the network for a layer, and of requests that were sent again. */
export type BlobNews = (digest: Digest, news: { readonly bytes: number; readonly retries: number }) => void;

/** Fetches blobs: one that several pulls want at the same time only once. */
export class Blobs implements AsyncDisposable {
  readonly #deps: BlobsDeps;
  readonly #onNews: BlobNews;
  readonly #places: Semaphore;
  readonly #flights = new Flights<void>();
  readonly #wanted = new Map<Digest, Wanted>();

  constructor(deps: BlobsDeps, onNews: BlobNews) {
    this.#deps = deps;
    this.#onNews = onNews;
    this.#places = new Semaphore(deps.maxParallelDownloads);
  }

  /** Changes how many layers are downloaded at once. */
  setParallel(count: number): void {
    this.#places.resize(count);
  }

  /** How far a layer's blob has come; `undefined` when nobody wants it. */
  progress(digest: Digest): BlobProgress | undefined {
    return this.#wanted.get(digest)?.progress;
  }

  /** The text of a small blob. */
  async text(targets: readonly Target[], { digest, sizeBytes }: Descriptor, signal: AbortSignal): Promise<string> {
    const path = this.#deps.staging.newPath('config');
    try {
      await this.#fetch(targets, { digest, sizeBytes }, path, signal);
      return await readFile(path, 'utf8');
    } finally {
      await rm(path, { force: true });
    }
  }

  /**
   * Runs `use` with the verified file of a layer's blob: fetched for the first who wants it, deleted after the last once
   * one of them has used it, and else kept for the next try.
   */
  async withLayer<T>(targets: readonly Target[], layer: Descriptor, use: (path: string) => Promise<T>, signal: AbortSignal): Promise<T> {
    const wanted = this.#want(layer);
    try {
      await this.#flights.join(layer.digest, (shared) => this.#fetchLayer(targets, layer, wanted, shared), { signal, retryOwn: true });
      wanted.progress.state = 'unpacking';
      const result = await use(wanted.path);
      wanted.spent = true;
      return result;
    } catch (err) {
      if (err instanceof JobError && err.kind === 'corrupt') wanted.spent = true;
      throw err;
    } finally {
      await this.#leave(layer.digest, wanted);
    }
  }

  #want({ digest, sizeBytes }: Descriptor): Wanted {
    let wanted = this.#wanted.get(digest);
    if (wanted === undefined) {
      wanted = { users: 0, whole: false, spent: false, path: this.#deps.downloads.take(digest), progress: new BlobProgress(sizeBytes) };
      this.#wanted.set(digest, wanted);
    }
    wanted.users += 1;
    return wanted;
  }

  async #leave(digest: Digest, wanted: Wanted): Promise<void> {
    wanted.users -= 1;
    if (wanted.users > 0) return;
    this.#wanted.delete(digest);
    if (wanted.spent) await this.#deps.downloads.drop(digest);
    else this.#deps.downloads.release(digest);
  }

  async #fetchLayer(targets: readonly Target[], layer: Descriptor, wanted: Wanted, signal: AbortSignal): Promise<void> {
    if (wanted.whole) return;
    await this.#places.run(async () => {
      wanted.progress.state = 'downloading';
      await this.#fetch(targets, layer, wanted.path, signal, (report) => {
        const news = wanted.progress.take(report);
        if (news.bytes > 0 || news.retries > 0) this.#onNews(layer.digest, news);
      });
    }, signal);
    wanted.whole = true;
  }

  #fetch(
    targets: readonly Target[],
    { digest, sizeBytes }: Descriptor,
    path: string,
    signal: AbortSignal,
    onReport: (report: BlobReport) => void = () => {},
  ): Promise<void> {
    const job: BlobJob = { op: 'blob', targets, digest, sizeBytes, path, idleMs: this.#deps.progressTimeoutMs };
    return this.#deps.fetchers.run(job, signal, (report) => onReport(report as BlobReport));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#flights.abortAll(new DOMException('storage is closing', 'AbortError'));
  }
}
