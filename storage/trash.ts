import { mkdir, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { newId } from '#base/id.ts';
import { Semaphore } from '#base/lock.ts';
import type { Log } from '#base/log.ts';

/** Deletions at once: one for each core of a small node. More would only queue for the disk's journal. */
const DELETERS = 2;

/** Something that has left its place. */
export interface Discarded {
  /** Resolves when it is off the disk. Rejects when it could not be deleted, or the daemon stops first. */
  readonly gone: Promise<void>;
}

/** Where things go that are deleted: out of the way at once by a rename, off the disk in the background. */
export class Trash implements AsyncDisposable {
  readonly #dir: string;
  readonly #log: Log;
  readonly #life = new AbortController();
  readonly #deleters = new Semaphore(DELETERS);
  readonly #deleting = new Set<Promise<void>>();

  private constructor(dir: string, log: Log) {
    this.#dir = dir;
    this.#log = log;
  }

  /** Begins to delete what an earlier run left. */
  static async open(dir: string, log: Log): Promise<Trash> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const trash = new Trash(dir, log);
    for (const name of await readdir(dir)) void trash.#discard(join(dir, name));
    return trash;
  }

  /** Takes a file or directory of the same file system away from its place. One that is not there is fine. */
  async take(path: string): Promise<Discarded> {
    const target = join(this.#dir, newId());
    try {
      await rename(path, target);
    } catch (err) {
      if (isErrno(err, 'ENOENT')) return { gone: Promise.resolve() };
      if (!isErrno(err, 'ENOSPC', 'EDQUOT')) throw err;
      await this.delete(path); // a full disk may have no room for one more name
      return { gone: Promise.resolve() };
    }
    return { gone: this.#discard(target) };
  }

  /** Deletes at once, for what must be off a full disk before the next step. */
  async delete(path: string): Promise<void> {
    // rm(1) takes names that are no UTF-8, and needs no time of the daemon's; a mount left behind is not emptied.
    await run('rm', ['-rf', '--one-file-system', '--', path], { signal: AbortSignal.any([this.#life.signal, AbortSignal.timeout(600_000)]) });
  }

  #discard(path: string): Promise<void> {
    const gone = this.#deleters.run(() => this.delete(path), this.#life.signal);
    this.#deleting.add(gone);
    gone
      .catch((err: unknown) => {
        if (!this.#life.signal.aborted) this.#log.warn({ err, path }, 'Could not delete trash');
      })
      .finally(() => this.#deleting.delete(gone));
    return gone;
  }

  /** What is not deleted yet is so after the next start. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#life.abort(new DOMException('storage is closing', 'AbortError'));
    await Promise.allSettled(this.#deleting);
  }
}
