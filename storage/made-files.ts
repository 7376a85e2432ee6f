import { lstatSync, readdirSync, rmdirSync, type Stats, unlinkSync } from 'node:fs';
import { lsetxattr, mknod, S_IF } from '#base/sys.ts';
import type { EntryListWriter } from './entry-list.ts';
import { at, below, parentOf, show } from './jail-path.ts';
import { JobError, type UnpackLimits, type UnpackMode } from './jobs.ts';
import { Parents } from './parents.ts';

const OPAQUE_MARK = '.wh..wh..opq';
export const WHITEOUT = '.wh.';

export interface MadeFilesOptions {
  readonly mode: UnpackMode;
  readonly limits: UnpackLimits;
  readonly list: EntryListWriter | undefined;
}

/**
 * What a layer has made so far in its jail: counted, listed, and taken away again where a later entry wants its place.
 *
 * Whiteouts become overlay's: a character device 0:0, and `trusted.overlay.opaque`. An entry of the same layer wins over
 * its whiteout, whichever comes first. Source: OCI image spec, layer.md; kernel overlayfs.rst.
 */
export class MadeFiles {
  readonly parents: Parents;
  readonly #mode: UnpackMode;
  readonly #limits: UnpackLimits;
  readonly #list: EntryListWriter | undefined;
  readonly #implied = new Set<string>(['']);
  /** In `merged` mode, what this layer made: what an opaque mark or a whiteout must leave alone. */
  readonly #made = new Set<string>();
  #inodes = 0;

  constructor({ mode, limits, list }: MadeFilesOptions) {
    this.#mode = mode;
    this.#limits = limits;
    this.#list = list;
    this.parents = new Parents({ mode, made: (path, wasWhiteout) => this.#addImplied(path, wasWhiteout) });
  }

  get inodes(): number {
    return this.#inodes;
  }

  /** Directories that are there for their content only; the root too, as `''`, unless the tar has an entry for it. */
  get implied(): string[] {
    return [...this.#implied];
  }

  /** Something new has this path. */
  count(path: string): void {
    this.#inodes += 1;
    const { maxInodes } = this.#limits;
    if (this.#inodes > maxInodes) throw new JobError('refused', `layer has more than ${maxInodes} files`);
    if (this.#mode !== 'merged') return;
    for (let made = path; made !== '' && !this.#made.has(made); made = parentOf(made)) this.#made.add(made);
  }

  /** The tar has an entry for this directory, which is there. */
  describe(path: string): void {
    this.#implied.delete(path);
    if (path === '') return;
    this.parents.add(path);
    if (this.#mode === 'merged') this.#made.add(path);
  }

  /** Takes away what has a path, with all in it. */
  remove(path: string, existing: Stats): void {
    this.#list?.add(['removed', path]);
    this.#unmake(path, existing);
  }

  /** Does what a whiteout of the name `base` in `directory` says. */
  whiteout(directory: string, base: string): void {
    if (base === OPAQUE_MARK) {
      // overlayfs does not look for the mark on the root of a layer
      if (this.#mode === 'layer' && directory === '') throw new JobError('needsLower', 'layer hides everything below it');
      if (this.#mode === 'merged') this.#clear(directory);
      else this.markOpaque(directory);
      return;
    }
    if (base.startsWith(`${WHITEOUT}${WHITEOUT}`)) return; // aufs kept its own books under such names
    const name = base.slice(WHITEOUT.length);
    if (name === '' || name === '.' || name === '..') throw new JobError('corrupt', `tar has the whiteout ${show(`${directory}/${base}`)} of nothing`);
    this.#hide(below(directory, name));
  }

  /** Hides what the layers below have in a directory. In `merged` mode the kernel does it. */
  markOpaque(path: string): void {
    if (this.#mode !== 'layer') return;
    lsetxattr(at(path), 'trusted.overlay.opaque', Buffer.from('y'));
    this.#list?.add(['opaque', path]);
  }

  #hide(path: string): void {
    const existing = lstatSync(at(path), { throwIfNoEntry: false });
    if (this.#mode === 'merged') {
      if (existing === undefined) return;
      if (!this.#made.has(path)) this.remove(path, existing);
      else if (existing.isDirectory()) this.#clear(path);
    } else if (existing === undefined) {
      mknod(at(path), S_IF.CHR, 0n);
      this.count(path);
      this.#list?.add(['whiteout', path]);
    } else if (existing.isDirectory()) {
      this.#implied.delete(path);
      this.markOpaque(path);
    }
  }

  #addImplied(path: string, wasWhiteout: boolean): void {
    if (wasWhiteout) this.#inodes -= 1;
    this.count(path);
    this.#list?.add(['implied', path]);
    // In place of a whiteout, it has nothing to do with what the layers below have there.
    if (wasWhiteout) this.markOpaque(path);
    else this.#implied.add(path);
  }

  /** Removes what a directory has from the layers below. */
  #clear(directory: string): void {
    for (const name of readdirSync(at(directory), 'latin1')) {
      const path = below(directory, name);
      const existing = lstatSync(at(path), { throwIfNoEntry: false });
      if (existing === undefined) continue;
      if (!this.#made.has(path)) this.remove(path, existing);
      else if (existing.isDirectory()) this.#clear(path);
    }
  }

  #unmake(path: string, existing: Stats): void {
    if (this.#mode !== 'merged' || this.#made.has(path)) this.#inodes -= 1;
    if (existing.isSymbolicLink()) this.parents.forget(path);
    if (!existing.isDirectory()) {
      unlinkSync(at(path));
      return;
    }
    for (const name of readdirSync(at(path), 'latin1')) {
      const inside = lstatSync(at(below(path, name)), { throwIfNoEntry: false });
      if (inside !== undefined) this.#unmake(below(path, name), inside);
    }
    rmdirSync(at(path));
    this.parents.forget(path);
    this.#implied.delete(path);
  }
}
