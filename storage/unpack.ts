import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  rmdirSync,
  type Stats,
  statSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { isErrno } from '#base/errors.ts';
import { lsetxattr, makedev, mknod, S_IF, SysError } from '#base/sys.ts';
import { JobError, type UnpackMode } from './jobs.ts';
import type { TarEntry, TarSink, TarType } from './tar.ts';

/** No image comes near it; it ends a tar that is all zeroes before the disk is full. */
const MAX_BYTES = 256 * 1024 ** 3;
/** Likewise for a tar of empty files, which would eat all inodes. */
const MAX_INODES = 20_000_000;
const DISK_BLOCK = 4096;
const OPAQUE_MARK = '.wh..wh..opq';
const WHITEOUT = '.wh.';

/**
 * Makes files of tar entries, below `/`: the process must be in a chroot of the directory to unpack into, so that links
 * in the tar lead nowhere else. Calls are synchronous: asynchronous ones take ten times as long for small files.
 *
 * Whiteouts become overlay's: a character device 0:0, and `trusted.overlay.opaque`. An entry of the same layer wins over
 * its whiteout, whichever comes first. Source: OCI image spec, layer.md; kernel overlayfs.rst.
 */
export class Extractor implements TarSink {
  readonly #mode: UnpackMode;
  /** Directories known to be there, so that a parent is looked at once. */
  readonly #directories = new Set<string>(['']);
  readonly #implied = new Set<string>(['']);
  /** In `merged` mode, what this layer made: what an opaque mark or a whiteout must leave alone. */
  readonly #made = new Set<string>();
  readonly #directoryTimes: [path: string, mtime: number][] = [];
  #open: { readonly fd: number; readonly path: string; readonly entry: TarEntry; size: number } | undefined;
  #bytes = 0;
  #inodes = 0;

  constructor(mode: UnpackMode) {
    this.#mode = mode;
  }

  /** Content as written, not as declared, rounded up to blocks for each file. */
  get bytes(): number {
    return this.#bytes;
  }

  get inodes(): number {
    return this.#inodes;
  }

  /** Directories that are there for their content only; the root too, as `''`, unless the tar has an entry for it. */
  get implied(): string[] {
    return [...this.#implied];
  }

  entry(entry: TarEntry): void {
    const path = cleanPath(entry.name);
    if (path === '') {
      if (entry.type !== 'directory') return;
      this.#implied.delete('');
      this.#describeDirectory('', entry);
      return;
    }
    const slash = path.lastIndexOf('/');
    const base = path.slice(slash + 1);
    this.#needParent(path);
    if (this.#mode !== 'plain' && base.startsWith(WHITEOUT)) this.#whiteout(path.slice(0, Math.max(slash, 0)), base);
    else this.#make(path, entry);
  }

  data(chunk: Buffer): void {
    if (this.#open === undefined) return;
    this.#open.size += chunk.length;
    if (this.#bytes + this.#open.size > MAX_BYTES) throw new JobError('refused', `layer is larger than ${MAX_BYTES} bytes`);
    for (let done = 0; done < chunk.length; ) done += writeSync(this.#open.fd, chunk, done, chunk.length - done);
  }

  end(): void {
    if (this.#open === undefined) return;
    const { fd, path, entry, size } = this.#open;
    this.#open = undefined;
    try {
      if (entry.uid !== 0 || entry.gid !== 0) fchownSync(fd, entry.uid, entry.gid);
      if ((entry.mode & 0o7000) !== 0) fchmodSync(fd, entry.mode);
      this.#setXattrs(path, entry);
      futimesSync(fd, entry.mtime, entry.mtime);
    } finally {
      closeSync(fd);
    }
    this.#bytes += Math.ceil(size / DISK_BLOCK) * DISK_BLOCK;
  }

  /** Times of directories come last, since what is made in them changes those. */
  finish(): void {
    for (const [path, mtime] of this.#directoryTimes.reverse()) {
      try {
        lutimesSync(at(path), mtime, mtime);
      } catch (err) {
        if (!isErrno(err, 'ENOENT')) throw err; // a later entry took its place
      }
    }
  }

  /** Closes what a failure left open. */
  abandon(): void {
    if (this.#open !== undefined) closeSync(this.#open.fd);
    this.#open = undefined;
  }

  #make(path: string, entry: TarEntry): void {
    const full = at(path);
    if (entry.type === 'directory') {
      this.#makeDirectory(path, entry);
      return;
    }
    if (entry.type === 'hardlink') this.#makeHardlink(path, entry);
    else if (entry.type === 'file') {
      const { O_CREAT, O_EXCL, O_WRONLY, O_NOFOLLOW } = constants;
      const fd = this.#replacing(path, () => openSync(full, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, entry.mode & 0o777));
      this.#open = { fd, path, entry, size: 0 };
    } else {
      if (entry.type === 'symlink') this.#replacing(path, () => symlinkSync(bytesOf(entry.link), full));
      else this.#replacing(path, () => this.#makeNode(path, entry));
      if (entry.uid !== 0 || entry.gid !== 0) lchownSync(full, entry.uid, entry.gid);
      if (entry.type !== 'symlink') chmodSync(full, entry.mode);
      this.#setXattrs(path, entry);
      lutimesSync(full, entry.mtime, entry.mtime);
    }
    this.#count(path);
  }

  #makeDirectory(path: string, entry: TarEntry): void {
    const existing = lstatSync(at(path), { throwIfNoEntry: false });
    if (existing?.isDirectory() === true) this.#implied.delete(path);
    else {
      if (existing !== undefined) this.#remove(path, existing);
      mkdirSync(at(path), entry.mode);
      this.#count(path);
      // A whiteout of the same layer came first: nothing of the layers below shows through.
      if (existing !== undefined && isWhiteout(existing)) this.#markOpaque(path);
    }
    this.#directories.add(path);
    if (this.#mode === 'merged') this.#made.add(path);
    this.#describeDirectory(path, entry);
  }

  #describeDirectory(path: string, entry: TarEntry): void {
    lchownSync(at(path), entry.uid, entry.gid);
    chmodSync(at(path), entry.mode);
    this.#setXattrs(path, entry);
    this.#directoryTimes.push([path, entry.mtime]);
  }

  #makeHardlink(path: string, entry: TarEntry): void {
    const target = cleanPath(entry.link);
    if (target === path) return;
    const existing = lstatSync(at(target), { throwIfNoEntry: false });
    if (existing === undefined || isWhiteout(existing)) {
      if (this.#mode === 'layer') throw new JobError('needsLower', `${show(path)} is a hard link to ${show(target)} of a lower layer`);
      throw new JobError('corrupt', `tar entry ${show(path)} is a hard link to ${show(target)}, which is not there`);
    }
    if (existing.isDirectory()) throw new JobError('corrupt', `tar entry ${show(path)} is a hard link to the directory ${show(target)}`);
    this.#replacing(path, () => linkSync(at(target), at(path)));
  }

  #makeNode(path: string, { type, mode, major, minor }: TarEntry): void {
    if (type === 'character' && major === 0 && minor === 0) {
      throw new JobError('refused', `tar entry ${show(path)} is the character device 0:0, which overlayfs takes for a whiteout`);
    }
    mknod(at(path), nodeType(type) | mode, type === 'fifo' ? 0n : makedev(major, minor));
  }

  /** Runs `make`; what already has the name goes first. */
  #replacing<T>(path: string, make: () => T): T {
    try {
      return make();
    } catch (err) {
      if (!isExisting(err)) throw err;
      const existing = lstatSync(at(path), { throwIfNoEntry: false });
      if (existing !== undefined) this.#remove(path, existing);
      return make();
    }
  }

  /** Makes sure that the parent is a directory. A symlink is followed, as the chroot sees it. */
  #needParent(path: string): void {
    const slash = path.lastIndexOf('/');
    const parent = path.slice(0, Math.max(slash, 0));
    if (this.#directories.has(parent)) return;
    this.#needParent(parent);
    const existing = lstatSync(at(parent), { throwIfNoEntry: false });
    if (existing === undefined || isWhiteout(existing)) {
      if (existing !== undefined) unlinkSync(at(parent));
      mkdirSync(at(parent), 0o755);
      this.#count(parent);
      if (existing !== undefined) this.#markOpaque(parent);
      // By its real path: the way here may lead over a symlink.
      else this.#implied.add(realpathSync.native(at(parent), 'buffer').toString('latin1').slice(1));
    } else if (existing.isSymbolicLink()) {
      if (statSync(at(parent), { throwIfNoEntry: false })?.isDirectory() !== true) {
        if (this.#mode === 'layer') throw new JobError('needsLower', `${show(path)} lies behind the symlink ${show(parent)} to a lower layer`);
        throw new JobError('corrupt', `tar entry ${show(path)} lies behind the symlink ${show(parent)}, which leads to no directory`);
      }
    } else if (!existing.isDirectory()) throw new JobError('corrupt', `tar entry ${show(path)} lies below ${show(parent)}, which is not a directory`);
    this.#directories.add(parent);
  }

  #whiteout(directory: string, base: string): void {
    if (base === OPAQUE_MARK) {
      // overlayfs does not look for the mark on the root of a layer
      if (this.#mode === 'layer' && directory === '') throw new JobError('needsLower', 'layer hides everything below it');
      if (this.#mode === 'merged') this.#clear(directory);
      else this.#markOpaque(directory);
      return;
    }
    if (base.startsWith(`${WHITEOUT}${WHITEOUT}`)) return; // aufs kept its own books under such names
    const name = base.slice(WHITEOUT.length);
    if (name === '' || name === '.' || name === '..') throw new JobError('corrupt', `tar has the whiteout ${show(`${directory}/${base}`)} of nothing`);
    const path = directory === '' ? name : `${directory}/${name}`;
    const existing = lstatSync(at(path), { throwIfNoEntry: false });
    if (this.#mode === 'merged') {
      if (existing === undefined) return;
      if (!this.#made.has(path)) this.#remove(path, existing);
      else if (existing.isDirectory()) this.#clear(path);
    } else if (existing === undefined) {
      mknod(at(path), S_IF.CHR, 0n);
      this.#inodes += 1;
    } else if (existing.isDirectory()) {
      this.#implied.delete(path);
      this.#markOpaque(path);
    }
  }

  /** Hides what the layers below have in a directory. In `merged` mode the kernel does it. */
  #markOpaque(path: string): void {
    if (this.#mode === 'layer') lsetxattr(at(path), 'trusted.overlay.opaque', Buffer.from('y'));
  }

  /** Removes what a directory has from the layers below. */
  #clear(directory: string): void {
    for (const name of readdirSync(at(directory), 'latin1')) {
      const path = directory === '' ? name : `${directory}/${name}`;
      const existing = lstatSync(at(path), { throwIfNoEntry: false });
      if (existing === undefined) continue;
      if (!this.#made.has(path)) this.#remove(path, existing);
      else if (existing.isDirectory()) this.#clear(path);
    }
  }

  #remove(path: string, existing: Stats): void {
    if (this.#mode !== 'merged' || this.#made.has(path)) this.#inodes -= 1;
    if (!existing.isDirectory()) {
      unlinkSync(at(path));
      if (this.#directories.has(path)) this.#forget(path);
      return;
    }
    for (const name of readdirSync(at(path), 'latin1')) {
      const below = lstatSync(at(`${path}/${name}`), { throwIfNoEntry: false });
      if (below !== undefined) this.#remove(`${path}/${name}`, below);
    }
    rmdirSync(at(path));
    this.#directories.delete(path);
    this.#implied.delete(path);
  }

  /** A symlink that was a way to directories is gone, and they with it. */
  #forget(path: string): void {
    for (const known of this.#directories) if (known === path || known.startsWith(`${path}/`)) this.#directories.delete(known);
  }

  #setXattrs(path: string, { type, xattrs }: TarEntry): void {
    for (const [name, value] of xattrs) {
      // Others are the kernel's own business: with trusted.overlay.* a layer could point overlayfs anywhere.
      const isUser = name.startsWith('user.') && (type === 'file' || type === 'directory');
      if (!isUser && name !== 'security.capability') continue;
      try {
        lsetxattr(at(path), name, value);
      } catch (err) {
        if (!(isUser && err instanceof SysError && (err.code === 'ENOTSUP' || err.code === 'EOPNOTSUPP'))) throw err;
      }
    }
  }

  #count(path: string): void {
    this.#inodes += 1;
    if (this.#inodes > MAX_INODES) throw new JobError('refused', `layer has more than ${MAX_INODES} files`);
    if (this.#mode !== 'merged') return;
    for (let made = path; made !== '' && !this.#made.has(made); made = made.slice(0, Math.max(made.lastIndexOf('/'), 0))) this.#made.add(made);
  }
}

/** The path without empty and `.` parts. @throws {JobError} where it has a `..`: nobody writes such a layer in good faith. */
function cleanPath(name: string): string {
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw new JobError('corrupt', `tar entry ${show(name)} has .. in its path`);
  return parts.join('/');
}

/** Where a path lies in the jail. What is not ASCII goes to the kernel as the bytes it was. */
function at(path: string): string | Buffer {
  return bytesOf(`/${path}`);
}

function bytesOf(path: string): string | Buffer {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII is meant
  return /^[\x00-\x7f]*$/.test(path) ? path : Buffer.from(path, 'latin1');
}

function show(path: string): string {
  return JSON.stringify(Buffer.from(path.slice(0, 200), 'latin1').toString());
}

function isWhiteout(stat: Stats): boolean {
  return stat.isCharacterDevice() && stat.rdev === 0;
}

function isExisting(err: unknown): boolean {
  return isErrno(err, 'EEXIST', 'EISDIR');
}

function nodeType(type: TarType): number {
  if (type === 'character') return S_IF.CHR;
  return type === 'block' ? S_IF.BLK : S_IF.FIFO;
}
