import { closeSync, constants, lchownSync, mkdirSync, readlinkSync, renameSync, writeFileSync } from 'node:fs';
import { CriError, isErrno, quote } from '#base/errors.ts';
import { newId } from '#base/id.ts';
import { O_PATH, openInRoot } from '#base/sys.ts';

/** A directory that the image declares as VOLUME. */
export interface ImageVolume {
  readonly containerPath: string;
  /** The same directory seen from the host, below the mounted rootfs. */
  readonly hostPath: string;
}

/** Whom what is made belongs to: the root user of the container, which in a user namespace is another one outside. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

const ROOT: Owner = { uid: 0, gid: 0 };

/** As many as the kernel follows in one path. */
const MAX_SYMLINKS = 40;

/**
 * Makes the directory and its missing parents inside the rootfs, of `owner` with mode 0755; symlinks lead nowhere else.
 * Everything is synchronous, as a few system calls on a file system that was just mounted are.
 * @returns its real path on the host.
 * @throws {CriError} `invalidArgument` when something that is no directory is in the way.
 */
export function ensureDirectory(rootfs: string, path: string, owner: Owner = ROOT): string {
  let rest = pathParts(path);
  let done: string[] = [];
  for (let links = 0; rest.length > 0; ) {
    const next = [...done, rest[0] as string];
    const made = stepInto(rootfs, done, next, path, owner);
    if (made === undefined) {
      done = next;
      rest = rest.slice(1);
      continue;
    }
    // A symlink to what is not there yet: go on with its target instead.
    links += 1;
    if (links > MAX_SYMLINKS) throw notADirectory(path);
    rest = [...pathParts(made), ...rest.slice(1)];
    if (made.startsWith('/')) done = [];
  }
  return withDirectory(rootfs, done, (directory) => readlinkSync(directory));
}

/** Makes the image's volumes. Their content is the image's own, in the container's writable layer; see `volumeMounts`. */
export function ensureVolumes(rootfs: string, volumes: readonly string[], owner: Owner = ROOT): readonly ImageVolume[] {
  return volumes
    .filter((path) => pathParts(path).length > 0)
    .map((containerPath) => ({ containerPath, hostPath: ensureDirectory(rootfs, containerPath, owner) }));
}

/** Replaces a file of /etc: a new one put in the old one's place, so that a symlink there is not followed. */
export function replaceEtcFile(rootfs: string, name: 'passwd' | 'group', content: Buffer, { uid, gid }: Owner = ROOT): void {
  withDirectory(rootfs, ['etc'], (directory) => {
    const temporary = `${directory}/.${name}.${newId().slice(0, 8)}`;
    writeFileSync(temporary, content, { mode: 0o644, flag: 'wx' });
    lchownSync(temporary, uid, gid);
    renameSync(temporary, `${directory}/${name}`);
  });
}

/** Makes `next`, whose parent `done` is there, unless it is a directory already. Returns the target where it is a dangling symlink. */
function stepInto(rootfs: string, done: readonly string[], next: readonly string[], path: string, { uid, gid }: Owner): string | undefined {
  try {
    withDirectory(rootfs, next, () => {});
    return undefined;
  } catch (err) {
    if (isErrno(err, 'ENOTDIR', 'ELOOP')) throw notADirectory(path);
    if (!isErrno(err, 'ENOENT')) throw err;
  }
  return withDirectory(rootfs, done, (directory) => {
    const name = `${directory}/${next.at(-1)}`;
    try {
      mkdirSync(name, 0o755);
      lchownSync(name, uid, gid);
      return undefined;
    } catch (err) {
      if (!isErrno(err, 'EEXIST')) throw err;
      return readlinkSync(name);
    }
  });
}

/** `use` gets a path of /proc that stands for the directory itself, whatever happens to its name. */
function withDirectory<T>(rootfs: string, parts: readonly string[], use: (directory: string) => T): T {
  const fd = openInRoot(rootfs, parts.length === 0 ? '.' : parts.join('/'), O_PATH | constants.O_DIRECTORY);
  try {
    return use(`/proc/self/fd/${fd}`);
  } finally {
    closeSync(fd);
  }
}

/** `..` stays: what it means depends on the symlinks before it, which the kernel knows. */
function pathParts(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}

function notADirectory(path: string): CriError {
  return new CriError('invalidArgument', `directory ${quote(path)} cannot be made in the image: something else is in the way`);
}
