import { lstatSync, mkdirSync, realpathSync, type Stats, statSync, unlinkSync } from 'node:fs';
import { at, baseOf, below, isWhiteout, parentOf, show } from './jail-path.ts';
import { JobError, type UnpackMode } from './jobs.ts';

interface ParentsOptions {
  readonly mode: UnpackMode;
  /** Told of each directory made because something lies in it; `wasWhiteout` when it took the place of one. */
  made(path: string, wasWhiteout: boolean): void;
}

/**
 * The directories that entries of a tar lie in, made where they are missing. A symlink on the way is followed, as the jail
 * sees it; from there on paths are real ones, so that each thing has one path.
 */
export class Parents {
  readonly #options: ParentsOptions;
  /** Directories known to be there, so that each is looked at once: path in the tar → real path. */
  readonly #known = new Map<string, string>([['', '']]);
  /** Those of them that lead over a symlink. */
  readonly #aliases = new Set<string>();

  constructor(options: ParentsOptions) {
    this.#options = options;
  }

  /** The real path of an entry; the directories to it are there when this returns. */
  place(path: string): string {
    return below(this.#need(parentOf(path), path), baseOf(path));
  }

  /** The real path of what is there, made or not. */
  real(path: string): string {
    const parent = parentOf(path);
    return below(this.#known.get(parent) ?? realPath(parent), baseOf(path));
  }

  /** An entry made this directory. */
  add(path: string): void {
    this.#known.set(path, path);
  }

  /** A directory or symlink is gone. */
  forget(path: string): void {
    this.#known.delete(path);
    for (const alias of this.#aliases) this.#known.delete(alias);
    this.#aliases.clear();
  }

  #need(directory: string, forWhat: string): string {
    const known = this.#known.get(directory);
    if (known !== undefined) return known;
    const path = below(this.#need(parentOf(directory), forWhat), baseOf(directory));
    const existing = lstatSync(at(path), { throwIfNoEntry: false });
    const real = this.#enter(path, existing, forWhat);
    this.#known.set(directory, real);
    if (real !== directory) this.#aliases.add(directory);
    return real;
  }

  #enter(path: string, existing: Stats | undefined, forWhat: string): string {
    if (existing === undefined || isWhiteout(existing)) {
      if (existing !== undefined) unlinkSync(at(path));
      mkdirSync(at(path), 0o755);
      this.#options.made(path, existing !== undefined);
      return path;
    }
    if (existing.isDirectory()) return path;
    if (!existing.isSymbolicLink()) throw new JobError('corrupt', `tar entry ${show(forWhat)} lies below ${show(path)}, which is not a directory`);
    if (isDirectory(path)) return realPath(path);
    if (this.#options.mode === 'layer') throw new JobError('needsLower', `${show(forWhat)} lies behind the symlink ${show(path)} to a lower layer`);
    throw new JobError('corrupt', `tar entry ${show(forWhat)} lies behind the symlink ${show(path)}, which leads to no directory`);
  }
}

/** Symlinks that lead round in a circle lead nowhere. */
function isDirectory(path: string): boolean {
  try {
    return statSync(at(path), { throwIfNoEntry: false })?.isDirectory() === true;
  } catch (err) {
    if (err instanceof Error && 'code' in err && err.code === 'ELOOP') return false;
    throw err;
  }
}

function realPath(path: string): string {
  return path === '' ? '' : realpathSync.native(at(path), 'buffer').toString('latin1').slice(1);
}
