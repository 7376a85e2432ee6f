import { type FSWatcher, readdirSync, statSync, watch } from 'node:fs';
import { access, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { bundleFiles } from './args.ts';

/** How a container ended. */
export interface Exit {
  /** The process's own code, or 128 + the signal that killed it. */
  readonly exitCode: number;
  /** Nanoseconds since the epoch: when the monitor wrote the exit file. */
  readonly finishedAt: bigint;
  /** Something in the container was killed for memory while it lived. */
  readonly oomKilled: boolean;
}

/** What the monitor has left about a container's end; `undefined` when it has not ended, or its monitor died first. */
export async function readExit(exitDir: string, id: string, bundle: string): Promise<Exit | undefined> {
  const path = join(exitDir, id);
  try {
    const [text, { mtimeNs }, oomKilled] = await Promise.all([readFile(path, 'latin1'), stat(path, { bigint: true }), exists(bundleFiles(bundle).oom)]);
    return /^-?\d+\s*$/.test(text) ? { exitCode: Number(text), finishedAt: mtimeNs, oomKilled } : undefined;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return false;
    throw err;
  }
}

/** Between two looks for what inotify has not told: a queue that overflowed, a directory that was made anew. */
const LOOK_PERIOD_MS = 3_000;

/** GLib writes `ID.XXXXXX` and renames it. */
const TEMPORARY = /\.[A-Za-z0-9]{6}$/;

/**
 * Tells of containers that ended, each once for as long as its exit file lies there; those that lie there at the
 * beginning are told too. A file without content is not an exit yet. `onExit` must not throw.
 */
export class ExitWatcher implements AsyncDisposable {
  readonly #exitDir: string;
  readonly #onExit: (id: string) => void;
  readonly #log: Pick<Log, 'warn'>;
  readonly #told = new Set<string>();
  readonly #timer: NodeJS.Timeout;
  #watcher: FSWatcher | undefined;
  /** Of the directory that is watched: another one may take its name. */
  #inode: bigint | undefined;
  #closed = false;

  private constructor(exitDir: string, onExit: (id: string) => void, log: Pick<Log, 'warn'>) {
    this.#exitDir = exitDir;
    this.#onExit = onExit;
    this.#log = log;
    this.#timer = setInterval(() => this.#look(), LOOK_PERIOD_MS);
    this.#timer.unref();
  }

  /** Begins to watch; `onExit` is never called before this has returned. The directory must be there. */
  static async open(exitDir: string, onExit: (id: string) => void, log: Pick<Log, 'warn'>): Promise<ExitWatcher> {
    await access(exitDir);
    const watcher = new ExitWatcher(exitDir, onExit, log);
    watcher.#watch();
    setImmediate(() => watcher.#look());
    return watcher;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#watcher?.close();
  }

  #watch(): void {
    const inode = statSync(this.#exitDir, { bigint: true }).ino;
    if (this.#watcher !== undefined && inode === this.#inode) return;
    this.#watcher?.close();
    const watcher = watch(this.#exitDir, { persistent: false }, (_event, name) => {
      if (name === null) this.#look();
      else this.#check(name);
    });
    watcher.on('error', (err) => {
      this.#log.warn({ err, path: this.#exitDir }, 'Lost the watch of exit files');
      this.#watcher = undefined; // the next look makes a new one
    });
    this.#watcher = watcher;
    this.#inode = inode;
  }

  #look(): void {
    if (this.#closed) return;
    try {
      this.#watch();
      const names = readdirSync(this.#exitDir);
      for (const id of this.#told.difference(new Set(names))) this.#told.delete(id);
      for (const name of names) this.#check(name);
    } catch (err) {
      this.#log.warn({ err, path: this.#exitDir }, 'Could not look for exit files');
    }
  }

  #check(name: string): void {
    if (this.#closed || TEMPORARY.test(name)) return;
    const size = statSync(join(this.#exitDir, name), { throwIfNoEntry: false })?.size;
    if (size === undefined) this.#told.delete(name);
    if (size === undefined || size === 0 || this.#told.has(name)) return;
    this.#told.add(name);
    this.#onExit(name);
  }
}
