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
  symlinkSync,
  writeSync,
} from 'node:fs';
import { crc32 } from 'node:zlib';
import { isErrno } from '#base/errors.ts';
import { makedev, mknod, S_IF, SysError } from '#base/sys.ts';
import type { EntryLine, EntryListWriter } from './entry-list.ts';
import { at, baseOf, bytesOf, cleanPath, isWhiteout, parentOf, show } from './jail-path.ts';
import { JobError, type UnpackLimits, type UnpackMode } from './jobs.ts';
import { MadeFiles, WHITEOUT } from './made-files.ts';
import type { TarEntry, TarSink, TarType } from './tar.ts';
import { setXattrs } from './xattrs.ts';

const DISK_BLOCK = 4096;

/**
 * Makes files of tar entries, below `/`: the process must be in a chroot of the directory to unpack into, so that links
 * in the tar lead nowhere else. Calls are synchronous: asynchronous ones take ten times as long for small files.
 */
export class Extractor implements TarSink {
  readonly #mode: UnpackMode;
  readonly #limits: UnpackLimits;
  readonly #list: EntryListWriter | undefined;
  readonly #made: MadeFiles;
  readonly #directoryTimes: [path: string, mtime: number][] = [];
  #open: { readonly fd: number; readonly path: string; readonly entry: TarEntry; size: number; crc: number } | undefined;
  #bytes = 0;

  /** `list` is told of all that is made, but for what a mount of the layers below makes of it. */
  constructor(mode: UnpackMode, { limits, list }: { limits: UnpackLimits; list: EntryListWriter | undefined }) {
    this.#mode = mode;
    this.#limits = limits;
    this.#list = list;
    this.#made = new MadeFiles({ mode, limits, list });
  }

  /** Content as written, not as declared, rounded up to blocks for each file. */
  get bytes(): number {
    return this.#bytes;
  }

  get inodes(): number {
    return this.#made.inodes;
  }

  /** See `MadeFiles`. */
  get implied(): string[] {
    return this.#made.implied;
  }

  entry(entry: TarEntry): void {
    try {
      this.#add(entry);
    } catch (err) {
      // A name too long, a loop of symlinks, too many links: the tar's fault, not the machine's.
      if (isErrno(err, 'ENAMETOOLONG', 'ELOOP', 'EMLINK', 'EINVAL') || (err instanceof SysError && ['ENAMETOOLONG', 'ELOOP', 'EINVAL'].includes(err.code))) {
        throw new JobError('refused', `tar entry ${show(entry.name)} cannot be made: ${err.code}`, { cause: err });
      }
      throw err;
    }
  }

  data(chunk: Buffer): void {
    const open = this.#open;
    if (open === undefined) return;
    open.size += chunk.length;
    const { maxBytes } = this.#limits;
    if (this.#bytes + open.size > maxBytes) throw new JobError('refused', `layer is larger than ${maxBytes} bytes`);
    for (let done = 0; done < chunk.length; ) done += writeSync(open.fd, chunk, done, chunk.length - done);
    if (this.#list !== undefined) open.crc = crc32(chunk, open.crc);
  }

  end(): void {
    if (this.#open === undefined) return;
    const { fd, path, entry, size, crc } = this.#open;
    this.#open = undefined;
    try {
      this.#list?.add(['file', path, entry.mode, entry.uid, entry.gid, size, crc]);
      if (entry.uid !== 0 || entry.gid !== 0) fchownSync(fd, entry.uid, entry.gid);
      if ((entry.mode & 0o7000) !== 0) fchmodSync(fd, entry.mode);
      this.#setXattrs(path, entry);
      futimesSync(fd, timeOf(entry.mtime), timeOf(entry.mtime));
    } finally {
      closeSync(fd);
    }
    this.#bytes += Math.ceil(size / DISK_BLOCK) * DISK_BLOCK;
  }

  /** Times of directories come last, since what is made in them changes those. */
  finish(): void {
    for (const [path, mtime] of this.#directoryTimes.reverse()) {
      try {
        lutimesSync(at(path), timeOf(mtime), timeOf(mtime));
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

  #add(entry: TarEntry): void {
    const path = cleanPath(entry.name);
    if (path === '') {
      if (entry.type !== 'directory') return;
      this.#made.describe('');
      this.#describeDirectory('', entry);
      return;
    }
    const real = this.#made.parents.place(path);
    const base = baseOf(real);
    if (this.#mode !== 'plain' && base.startsWith(WHITEOUT)) this.#made.whiteout(parentOf(real), base);
    else this.#make(real, entry);
  }

  #make(path: string, entry: TarEntry): void {
    if (entry.type === 'directory') {
      this.#makeDirectory(path, entry);
      return;
    }
    const full = at(path);
    if (entry.type === 'hardlink') this.#makeHardlink(path, entry);
    else if (entry.type === 'file') {
      const { O_CREAT, O_EXCL, O_WRONLY, O_NOFOLLOW } = constants;
      const fd = this.#replacing(path, () => openSync(full, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, entry.mode & 0o777));
      this.#open = { fd, path, entry, size: 0, crc: 0 };
    } else {
      if (entry.type === 'symlink') this.#replacing(path, () => symlinkSync(bytesOf(entry.link), full));
      else this.#replacing(path, () => this.#makeNode(path, entry));
      if (entry.uid !== 0 || entry.gid !== 0) lchownSync(full, entry.uid, entry.gid);
      if (entry.type !== 'symlink') chmodSync(full, entry.mode);
      this.#list?.add(lineOf(path, entry));
      this.#setXattrs(path, entry);
      lutimesSync(full, timeOf(entry.mtime), timeOf(entry.mtime));
    }
    this.#made.count(path);
  }

  #makeDirectory(path: string, entry: TarEntry): void {
    const existing = lstatSync(at(path), { throwIfNoEntry: false });
    if (existing?.isDirectory() !== true) {
      if (existing !== undefined) this.#made.remove(path, existing);
      mkdirSync(at(path), entry.mode);
      this.#made.count(path);
    }
    this.#made.describe(path);
    this.#describeDirectory(path, entry);
    // A whiteout of the same layer came first: nothing of the layers below shows through.
    if (existing !== undefined && isWhiteout(existing)) this.#made.markOpaque(path);
  }

  #describeDirectory(path: string, entry: TarEntry): void {
    lchownSync(at(path), entry.uid, entry.gid);
    chmodSync(at(path), entry.mode);
    this.#list?.add(['directory', path, entry.mode, entry.uid, entry.gid]);
    this.#setXattrs(path, entry);
    this.#directoryTimes.push([path, entry.mtime]);
  }

  #makeHardlink(path: string, entry: TarEntry): void {
    const target = cleanPath(entry.link);
    const existing = lstatSync(at(target), { throwIfNoEntry: false });
    if (existing === undefined || isWhiteout(existing)) {
      if (this.#mode === 'layer') throw new JobError('needsLower', `${show(path)} is a hard link to ${show(target)} of a lower layer`);
      throw new JobError('corrupt', `tar entry ${show(path)} is a hard link to ${show(target)}, which is not there`);
    }
    if (existing.isDirectory()) throw new JobError('corrupt', `tar entry ${show(path)} is a hard link to the directory ${show(target)}`);
    const real = this.#made.parents.real(target);
    if (real === path) return;
    this.#replacing(path, () => linkSync(at(real), at(path)));
    this.#list?.add(['link', path, real]);
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
      if (existing !== undefined) this.#made.remove(path, existing);
      return make();
    }
  }

  #setXattrs(path: string, entry: TarEntry): void {
    const set = setXattrs(path, entry);
    if (set !== undefined) this.#list?.add(['xattrs', path, set]);
  }
}

function lineOf(path: string, { type, link, mode, uid, gid, major, minor }: TarEntry): EntryLine {
  if (type === 'symlink') return ['symlink', path, link, uid, gid];
  return ['node', path, nodeType(type) | mode, type === 'fifo' ? 0 : Number(makedev(major, minor)), uid, gid];
}

/** Node takes a negative number for the time now. */
function timeOf(seconds: number): number | Date {
  return seconds < 0 ? new Date(seconds * 1_000) : seconds;
}

function isExisting(err: unknown): boolean {
  return isErrno(err, 'EEXIST', 'EISDIR');
}

function nodeType(type: TarType): number {
  if (type === 'character') return S_IF.CHR;
  return type === 'block' ? S_IF.BLK : S_IF.FIFO;
}
