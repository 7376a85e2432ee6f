import { mkdir, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { newId } from '#base/id.ts';
import type { Log } from '#base/log.ts';

/** Where things go that are deleted: out of the way at once by a rename, off the disk in the background. */
export class Trash implements AsyncDisposable {
  readonly #dir: string;
  readonly #log: Log;
  readonly #life = new AbortController();
  #emptying: Promise<void> = Promise.resolve();

  private constructor(dir: string, log: Log) {
    this.#dir = dir;
    this.#log = log;
  }

  /** Begins to delete what an earlier run left. */
  static async open(dir: string, log: Log): Promise<Trash> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const trash = new Trash(dir, log);
    if ((await readdir(dir)).length > 0) trash.#empty();
    return trash;
  }

  /** Takes a file or directory of the same file system away from its place. One that is not there is fine. */
  async take(path: string): Promise<void> {
    try {
      await rename(path, join(this.#dir, newId()));
    } catch (err) {
      if (isErrno(err, 'ENOENT')) return;
      throw err;
    }
    this.#empty();
  }

  /** Deletes at once, for what must be off a full disk before the next step. */
  async delete(path: string): Promise<void> {
    // rm(1) takes names that are no UTF-8, and needs no time of the daemon's; a mount left behind is not emptied.
    await run('rm', ['-rf', '--one-file-system', '--', path], { signal: AbortSignal.any([this.#life.signal, AbortSignal.timeout(600_000)]) });
  }

  #empty(): void {
    this.#emptying = this.#emptying.then(async () => {
      if (this.#life.signal.aborted) return;
      try {
        for (const name of await readdir(this.#dir)) await this.delete(join(this.#dir, name));
      } catch (err) {
        if (!this.#life.signal.aborted) this.#log.warn({ err, path: this.#dir }, 'Could not empty trash');
      }
    });
  }

  /** What is not deleted yet is so after the next start. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#life.abort();
    await this.#emptying;
  }
}
