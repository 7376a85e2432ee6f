import { chmodSync, lchownSync, lstatSync, lutimesSync, type Stats } from 'node:fs';
import { isErrno } from '#base/errors.ts';
import { readXattr } from '#base/sys.ts';
import { isWhiteout } from './jail-path.ts';
import { JobError } from './jobs.ts';

/** Without the NUL. Source: linux/limits.h, PATH_MAX. */
const MAX_PATH = 4_095;

/**
 * Gives directories that a layer only implies the owner, mode and time that they have in the layers below, uppermost
 * first; one that is in none keeps its own. Paths are latin1; `''` is the root.
 * @throws {JobError} `needsLower` where a lower layer has something else by that name: the layer must be unpacked over a mount.
 */
export function settleImplied(dir: string, implied: readonly string[], lower: readonly string[]): void {
  for (const path of implied) {
    const found = path === '' ? lstatSync(lower[0] ?? '', { throwIfNoEntry: false }) : findBelow(lower, path.split('/'));
    if (found === undefined) continue;
    if (!found.isDirectory()) throw new JobError('needsLower', `directory ${JSON.stringify(path)} is something else in a lower layer`);
    const own = path === '' ? dir : join(dir, path);
    if (own.length > MAX_PATH) throw new JobError('needsLower', 'a path is too long to be looked up from outside');
    lchownSync(own, found.uid, found.gid);
    chmodSync(own, found.mode & 0o7777);
    lutimesSync(own, found.atimeMs / 1_000, found.mtimeMs / 1_000);
  }
}

/**
 * What the stack of layers shows at a path, as overlayfs would merge it. No symlink is followed: every part is looked at
 * by itself, so that a layer cannot lead out of its directory.
 */
export function findBelow(lower: readonly string[], parts: readonly string[]): Stats | undefined {
  let directories: Buffer[] = lower.map((dir) => Buffer.from(dir));
  for (const [depth, part] of parts.entries()) {
    const merged: { path: Buffer; stat: Stats }[] = [];
    for (const directory of directories) {
      const path = join(directory, part);
      const stat = lstatAt(path);
      if (stat === undefined) continue;
      if (!stat.isDirectory()) {
        // Something that is not a directory ends the search; at the top, it is what is seen.
        if (merged.length === 0 && !isWhiteout(stat)) return stat;
        break;
      }
      merged.push({ path, stat });
      if (readXattr(path, 'trusted.overlay.opaque') !== undefined) break;
    }
    if (merged.length === 0) return undefined;
    if (depth === parts.length - 1) return merged[0]?.stat;
    directories = merged.map(({ path }) => path);
  }
  return undefined;
}

function join(directory: string | Buffer, name: string): Buffer {
  return Buffer.concat([typeof directory === 'string' ? Buffer.from(directory) : directory, Buffer.from('/'), Buffer.from(name, 'latin1')]);
}

function lstatAt(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (err) {
    if (isErrno(err, 'ENOTDIR')) return undefined;
    // Below the store's own path there is less room than in the image; over a mount there is enough.
    if (isErrno(err, 'ENAMETOOLONG')) throw new JobError('needsLower', 'a path is too long to be looked up from outside');
    throw err;
  }
}
