import { renameSync } from 'node:fs';
import { mkdir, readdir, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { type Digest, hexOf, isDigest } from './digest.ts';
import type { Staging } from './staging.ts';

/** The kubelet's longest pause between two tries is 5 minutes; a node that was drained and rebooted takes longer. */
const KEPT_MS = 60 * 60_000;
/** Of the file system, for all that is kept together. */
const KEPT_SHARE = 0.1;
const LOOK_MS = 10 * 60_000;

export interface DownloadsOptions {
  readonly staging: Staging;
  readonly log: Log;
  /** For tests. Default: an hour. */
  readonly keptMs?: number;
  /** For tests. Default: a tenth of the file system. */
  readonly keptBytes?: number;
}

/**
 * Blobs on their way from a registry, whole or in part, each a file of its digest's name. One that a pull leaves behind,
 * however that ended, is the beginning of the next try: for an hour, and as long as all of them do not take too much.
 */
export class Downloads implements Disposable {
  readonly #dir: string;
  readonly #options: DownloadsOptions;
  readonly #used = new Set<Digest>();
  #timer: NodeJS.Timeout | undefined;

  private constructor(dir: string, options: DownloadsOptions) {
    this.#dir = dir;
    this.#options = options;
  }

  static async open(dir: string, options: DownloadsOptions): Promise<Downloads> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const downloads = new Downloads(dir, options);
    await downloads.tidy();
    return downloads;
  }

  /** The file of a blob, which is left alone until it is released or dropped. */
  take(digest: Digest): string {
    this.#used.add(digest);
    return this.#path(digest);
  }

  /** Keeps what there is of a blob for the next try. */
  release(digest: Digest): void {
    this.#used.delete(digest);
    this.#tidyLater();
  }

  /** Deletes a blob that is done with, or no good. From the call on a new file of it can be begun. */
  async drop(digest: Digest): Promise<void> {
    this.#used.delete(digest);
    const aside = this.#options.staging.newPath('download');
    try {
      renameSync(this.#path(digest), aside); // at once: the next pull may want to begin this file
    } catch (err) {
      if (isErrno(err, 'ENOENT')) return;
      throw err;
    }
    await rm(aside, { force: true });
  }

  /** Deletes everything that nobody is working on: the disk is full. */
  async purge(): Promise<void> {
    for (const { digest } of await this.#kept()) if (!this.#used.has(digest)) await this.drop(digest);
  }

  /** Deletes what is too old, then the oldest of what is too much. */
  async tidy(): Promise<void> {
    const { keptMs = KEPT_MS, log } = this.#options;
    const kept = (await this.#kept()).sort((a, b) => b.changedMs - a.changedMs);
    let room = this.#options.keptBytes ?? (await this.#share());
    let left = 0;
    for (const { digest, bytes, changedMs } of kept) {
      room -= bytes;
      if (room >= 0 && changedMs > Date.now() - keptMs) left += 1;
      else if (!this.#used.has(digest)) {
        log.debug({ path: this.#path(digest), bytes }, 'Dropped what a pull had left');
        await this.drop(digest);
      }
    }
    if (left > 0) this.#tidyLater();
  }

  #tidyLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.tidy().catch((err: unknown) => this.#options.log.warn({ err, path: this.#dir }, 'Could not drop what pulls had left'));
    }, LOOK_MS).unref();
  }

  /** What nobody is working on. Anything that is not called like a blob is deleted. */
  async #kept(): Promise<{ digest: Digest; bytes: number; changedMs: number }[]> {
    const found = [];
    for (const name of await readdir(this.#dir)) {
      const digest = `sha256:${name}`;
      const path = join(this.#dir, name);
      if (!isDigest(digest)) await rm(path, { recursive: true, force: true });
      else if (!this.#used.has(digest)) {
        const status = await stat(path).catch(() => undefined);
        if (status !== undefined) found.push({ digest, bytes: status.blocks * 512, changedMs: status.mtimeMs });
      }
    }
    return found;
  }

  async #share(): Promise<number> {
    const { blocks, bsize } = await statfs(this.#dir);
    return blocks * bsize * KEPT_SHARE;
  }

  #path(digest: Digest): string {
    return join(this.#dir, hexOf(digest));
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
