import { closeSync, constants, lstatSync, openSync, readdirSync, readlinkSync, readSync, type Stats } from 'node:fs';
import { crc32 } from 'node:zlib';
import { readXattr } from '#base/sys.ts';
import type { EntryListWriter } from './entry-list.ts';
import { type EntryNode, type Inode, isDirectory } from './entry-tree.ts';
import { at, below, isWhiteout, show } from './jail-path.ts';
import type { VerifyResult } from './jobs.ts';

const READ_BYTES = 256 * 1024;
/** Of file types in a mode. */
const TYPE_BITS = 0o170000;
const OPAQUE = 'trusted.overlay.opaque';

/**
 * Compares an unpacked layer, which the process must be in a chroot of, since its names may be as long as the kernel takes
 * them, with the list of what was unpacked: names, types, modes, owners, sizes, links and attributes;
 * with `full` the content of files too. No symlink is
 * followed.
 */
export function verifyTree(tree: EntryNode, { full }: { full: boolean }): VerifyResult {
  const comparison = new Comparison(full);
  comparison.directory('', tree);
  return { problem: comparison.problem, count: comparison.count };
}

class Comparison {
  readonly #full: boolean;
  /** Which inode on disk each inode of the list is, once it has been met. */
  readonly #met = new Map<Inode, number>();
  problem: VerifyResult['problem'];
  count = 0;

  constructor(full: boolean) {
    this.#full = full;
  }

  directory(path: string, node: EntryNode): void {
    let stat: Stats | undefined;
    try {
      stat = lstatSync(at(path), { throwIfNoEntry: false });
    } catch (err) {
      this.#wrong('altered', path, reason(err)); // EIO, EUCLEAN: the file system itself is damaged
      return;
    }
    if (stat === undefined) {
      this.#wrong('missing', path, 'is gone');
      return;
    }
    if (node.inode !== undefined && !this.#inode(path, node.inode, stat)) return;
    if (!stat.isDirectory()) return;
    let names: string[];
    try {
      names = readdirSync(at(path), 'latin1');
    } catch (err) {
      this.#wrong('altered', path, reason(err));
      return;
    }
    for (const name of names) if (!node.children.has(name)) this.#wrong('altered', below(path, name), 'was not in the layer');
    for (const [name, child] of node.children) this.directory(below(path, name), child);
  }

  /** False when it is something else altogether. */
  #inode(path: string, inode: Inode, stat: Stats): boolean {
    const difference = this.#compare(path, inode, stat);
    if (difference !== undefined) this.#wrong('altered', path, difference);
    return difference === undefined || stat.isDirectory() === isDirectory(inode);
  }

  #compare(path: string, inode: Inode, stat: Stats): string | undefined {
    const { line } = inode;
    const known = this.#met.get(inode);
    if (known !== undefined) return known === stat.ino ? undefined : 'is no longer the hard link that it was';
    this.#met.set(inode, stat.ino);
    const type = typeOf(stat);
    switch (line[0]) {
      case 'implied':
        return type === 'directory' ? this.#attributes(path, inode) : `is a ${type}, not a directory`;
      case 'whiteout':
        return isWhiteout(stat) ? undefined : `is a ${type}, not a whiteout`;
      case 'symlink': {
        if (type !== 'symlink') return `is a ${type}, not a symlink`;
        const target = readlinkSync(at(path), 'latin1');
        return target === line[2] ? owner(stat, line[3], line[4]) : `leads to ${show(target)}, not to ${show(line[2])}`;
      }
      case 'node':
        if ((stat.mode & TYPE_BITS) !== (line[2] & TYPE_BITS) || stat.rdev !== line[3]) return 'is another device';
        return this.#described(path, inode, stat, line[2], line[4], line[5]);
      case 'directory':
        return type === 'directory' ? this.#described(path, inode, stat, line[2], line[3], line[4]) : `is a ${type}, not a directory`;
      case 'file':
        if (type !== 'file') return `is a ${type}, not a file`;
        if (stat.size !== line[5]) return `has ${stat.size} bytes, not ${line[5]}`;
        return this.#described(path, inode, stat, line[2], line[3], line[4]) ?? (this.#full ? this.#content(path, line[6]) : undefined);
    }
  }

  #described(path: string, inode: Inode, stat: Stats, mode: number, uid: number, gid: number): string | undefined {
    if ((stat.mode & 0o7777) !== (mode & 0o7777)) return `has the mode ${(stat.mode & 0o7777).toString(8)}, not ${(mode & 0o7777).toString(8)}`;
    return owner(stat, uid, gid) ?? this.#attributes(path, inode);
  }

  #attributes(path: string, { opaque, xattrs }: Inode): string | undefined {
    try {
      if (opaque && readXattr(at(path), OPAQUE) === undefined) return 'no longer hides what is below it';
      for (const [name, crc] of Object.entries(xattrs)) {
        const value = readXattr(at(path), name);
        if (value === undefined) return `has lost its attribute ${name}`;
        if (crc32(value) !== crc) return `has another value of the attribute ${name}`;
      }
      return undefined;
    } catch (err) {
      return reason(err);
    }
  }

  #content(path: string, crc: number): string | undefined {
    try {
      return crcOfFile(at(path)) === crc ? undefined : 'has other content';
    } catch (err) {
      return reason(err);
    }
  }

  #wrong(kind: 'missing' | 'altered', path: string, how: string): void {
    this.count += 1;
    this.problem ??= { kind, message: `${path === '' ? 'its directory' : show(path)} ${how}` };
  }
}

/**
 * Writes the list of what the jail holds: for a layer that was unpacked over a mount, where the kernel copies up files
 * of the layers below.
 */
export function listTree(list: EntryListWriter): void {
  const linked = new Map<number, string>();
  const visit = (path: string): void => {
    const full = at(path);
    const stat = lstatSync(full);
    const type = typeOf(stat);
    const { mode, uid, gid, size, ino, rdev } = stat;
    const same = type === 'directory' || stat.nlink === 1 ? undefined : linked.get(ino);
    if (same !== undefined) {
      list.add(['link', path, same]);
      return;
    }
    if (type !== 'directory' && stat.nlink > 1) linked.set(ino, path);
    if (type === 'directory') list.add(['directory', path, mode & 0o7777, uid, gid]);
    else if (type === 'file') list.add(['file', path, mode & 0o7777, uid, gid, size, crcOfFile(full)]);
    else if (type === 'symlink') list.add(['symlink', path, readlinkSync(full, 'latin1'), uid, gid]);
    else if (isWhiteout(stat)) list.add(['whiteout', path]);
    else list.add(['node', path, mode, rdev, uid, gid]);
    if (type !== 'directory') return;
    if (readXattr(full, OPAQUE) !== undefined) list.add(['opaque', path]);
    for (const name of readdirSync(full, 'latin1')) visit(below(path, name));
  };
  visit('');
}

function crcOfFile(path: string | Buffer): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
    let crc = 0;
    for (;;) {
      const length = readSync(fd, buffer, 0, buffer.length, null);
      if (length === 0) return crc;
      crc = crc32(buffer.subarray(0, length), crc);
    }
  } finally {
    closeSync(fd);
  }
}

function owner(stat: Stats, uid: number, gid: number): string | undefined {
  return stat.uid === uid && stat.gid === gid ? undefined : `belongs to ${stat.uid}:${stat.gid}, not to ${uid}:${gid}`;
}

function typeOf(stat: Stats): string {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  return stat.isSymbolicLink() ? 'symlink' : 'device';
}

function reason(err: unknown): string {
  return `cannot be read: ${err instanceof Error ? err.message : String(err)}`;
}
