import { type BigIntStats, type FSWatcher, statSync, watch } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import type { Log } from './log.ts';

interface Armed {
  /** The directory watched: the wanted one or, while that is not there, the nearest above it. */
  readonly path: string;
  readonly inode: bigint;
  readonly watcher: FSWatcher;
}

/** Editors and package managers write a file in several steps: one look after the last of them. */
const DEBOUNCE_MS = 100;
/** Steps that do not end must not put the look off for ever. */
const MAX_DELAY_MS = 500;
/** For what inotify does not tell: a symlink's target, a network file system, no watches left. */
const PERIOD_MS = 5_000;

/**
 * Tells when something in a few directories may have changed, also of one that is made, removed or replaced later.
 * Its timers and watches keep no process alive.
 */
export class DirectoryWatch implements Disposable {
  readonly #dirs: readonly string[];
  readonly #onChange: () => void;
  readonly #log: Log;
  readonly #armed = new Map<string, Armed>();
  readonly #period: NodeJS.Timeout;
  #debounce: NodeJS.Timeout | undefined;
  #firstEventAt = 0;
  #warned = false;

  constructor(dirs: readonly string[], { onChange, log }: { onChange: () => void; log: Log }) {
    this.#dirs = [...new Set(dirs.map((dir) => resolve(dir)))];
    this.#onChange = onChange;
    this.#log = log;
    this.arm();
    this.#period = setInterval(() => this.#fire(), PERIOD_MS);
    this.#period.unref();
  }

  /** True between an event and its report: what is known may be old. */
  get pending(): boolean {
    return this.#debounce !== undefined;
  }

  /** Watches each directory, or what is nearest to it now. Call it before looking, so that no change falls between. */
  arm(): void {
    for (const dir of this.#dirs) {
      const nearest = nearestDirectory(dir);
      const before = this.#armed.get(dir);
      if (before !== undefined && before.path === nearest.path && before.inode === nearest.inode) continue;
      before?.watcher.close();
      this.#armed.delete(dir);
      try {
        this.#armed.set(dir, { ...nearest, watcher: this.#watch(dir, nearest.path) });
      } catch (err) {
        this.#warn(dir, err);
      }
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#period);
    clearTimeout(this.#debounce);
    for (const { watcher } of this.#armed.values()) watcher.close();
    this.#armed.clear();
  }

  #watch(dir: string, path: string): FSWatcher {
    // Above the wanted directory only the next step down to it counts; /etc and /tmp are busy.
    const step =
      path === dir
        ? undefined
        : dir
            .slice(path.length)
            .split('/')
            .find((part) => part !== '');
    const own = basename(path);
    const watcher = watch(path, { persistent: false }, (_event, name) => {
      if (step === undefined || name === null || name === step || name === own) this.#soon();
    });
    watcher.on('error', (err) => this.#warn(dir, err));
    return watcher;
  }

  #soon(): void {
    const now = performance.now();
    if (this.#debounce === undefined) this.#firstEventAt = now;
    clearTimeout(this.#debounce);
    this.#debounce = setTimeout(() => this.#fire(), Math.max(0, Math.min(DEBOUNCE_MS, this.#firstEventAt + MAX_DELAY_MS - now)));
    this.#debounce.unref();
  }

  #fire(): void {
    clearTimeout(this.#debounce);
    this.#debounce = undefined;
    this.#onChange();
  }

  #warn(path: string, err: unknown): void {
    if (this.#warned) return;
    this.#warned = true;
    this.#log.warn({ path, err }, 'Could not watch directory and looks every few seconds instead');
  }
}

function nearestDirectory(dir: string): { path: string; inode: bigint } {
  for (let path = dir; ; path = dirname(path)) {
    const found = statusOf(path);
    if (found?.isDirectory() === true || path === '/') return { path, inode: found?.ino ?? 0n };
  }
}

/** `undefined` also for what cannot be looked at, such as links that lead round in a circle or a file server's stale handle. */
function statusOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}
