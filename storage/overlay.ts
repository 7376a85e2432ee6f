import { chmod, chown, lstat, mkdir, opendir, rm, stat, utimes } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CriError, isErrno } from '#base/errors.ts';
import { MNT, MS, mount, mountAsync, mountOverlayLong, SysError, umountAsync } from '#base/sys.ts';

/** mount(2) takes one page of options, its end included. */
const MAX_OPTIONS = 4095;
/** A mount that something mounted over again and again is not ours. */
const MAX_STACKED = 16;

export interface OverlayMount {
  /** Uppermost first. */
  readonly lower: readonly string[];
  /** What is written to; without it the mount is read-only, and needs two directories below. */
  readonly upper?: { readonly dir: string; readonly work: string };
  readonly target: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly flags: readonly string[];
  /** SELinux context of everything in it, whatever the layers say. */
  readonly label?: string | undefined;
}

/** Mounts an overlay; where the options do not fit a page, in the ways that kernels have for that. */
export async function mountOverlay(overlay: OverlayMount): Promise<void> {
  const { lower, upper, target, settings, flags, label } = overlay;
  const options = optionsOf(overlay, lower);
  if (Buffer.byteLength(options) <= MAX_OPTIONS) {
    await mountAsync('overlay', target, 'overlay', mountFlags(overlay), options);
    return;
  }
  try {
    const context = label === undefined ? {} : { context: label };
    mountOverlayLong(target, lower, { ...writableOf(overlay), ...settings, ...context }, flags, { readOnly: upper === undefined });
  } catch (err) {
    if (!(err instanceof SysError && ['EINVAL', 'E2BIG', 'ENOSYS'].includes(err.code))) throw err;
    mountOverlayRelative(overlay); // before Linux 6.5
  }
}

/**
 * Mounts an overlay whose lower directories all lie in one, naming them from there, so that some 350 short names fit. The
 * working directory is the whole process's: nothing else of ours runs meanwhile, and what has relative paths is nothing.
 */
export function mountOverlayRelative(overlay: OverlayMount): void {
  const { lower, target } = overlay;
  const directory = dirname(lower[0] ?? '');
  const options = optionsOf(
    overlay,
    lower.map((path) => basename(path)),
  );
  if (lower.some((path) => dirname(path) !== directory) || Buffer.byteLength(options) > MAX_OPTIONS) {
    throw new CriError('invalidArgument', `${lower.length} layers are more than this kernel mounts: their names do not fit a page`);
  }
  const home = process.cwd();
  process.chdir(directory);
  try {
    mount('overlay', target, 'overlay', mountFlags(overlay), options);
  } finally {
    process.chdir(home);
  }
}

function optionsOf(overlay: OverlayMount, lower: readonly string[]): string {
  const named = Object.entries({ ...writableOf(overlay), ...overlay.settings }).map(([key, value]) => `${key}=${escapeOption(value)}`);
  // Quoted, since a level has commas, and no backslash helps. Source: kernel security/selinux/hooks.c, selinux_sb_eat_lsm_opts().
  const context = overlay.label === undefined ? [] : [`context="${overlay.label}"`];
  return [`lowerdir=${lower.map(escapeLowerDir).join(':')}`, ...named, ...overlay.flags, ...context].join(',');
}

function writableOf({ upper }: OverlayMount): Record<string, string> {
  return upper === undefined ? {} : { upperdir: upper.dir, workdir: upper.work };
}

function mountFlags({ upper }: OverlayMount): number {
  return upper === undefined ? MS.RDONLY | MS.NOSUID | MS.NODEV : 0;
}

/**
 * Mounts layers (uppermost first, at least two) so that nobody can write to them. Every caller has a mount of its own,
 * and all share the page cache. Neither devices nor setuid programs of an image count there.
 */
export async function mountReadOnly(lower: readonly string[], target: string, label?: string): Promise<void> {
  await mountOverlay({ lower, target, settings: { index: 'off' }, flags: [], label });
}

/** A comma would end the option, a colon the layer. Source: kernel overlayfs, params.c. */
function escapeOption(path: string): string {
  return path.replace(/[\\,]/g, '\\$&');
}

/** A directory as it stands in `lowerdir=`. */
export function escapeLowerDir(path: string): string {
  return path.replace(/[\\,:]/g, '\\$&');
}

/** The directories of a container's writable layer. */
export function writableDirs(containerDir: string): { upper: string; work: string } {
  return { upper: join(containerDir, 'upper'), work: join(containerDir, 'work') };
}

/** Makes the directories of a writable layer; those that are there stay as they are. */
export async function createWritable(containerDir: string): Promise<void> {
  const { upper, work } = writableDirs(containerDir);
  await mkdir(upper, { recursive: true, mode: 0o755 });
  await mkdir(work, { recursive: true, mode: 0o700 });
}

/**
 * Mounts a root filesystem: the layers below (uppermost first), the container's own directory on top. `volatile` leaves
 * out every sync, since after a crash of the machine the container is made anew.
 */
export async function mountWritable(
  lower: readonly string[],
  containerDir: string,
  target: string,
  { volatile = true, label }: { readonly volatile?: boolean; readonly label?: string | undefined } = {},
): Promise<void> {
  const { upper, work } = writableDirs(containerDir);
  await adoptRoot(lower[0], upper, work);
  // Left by a volatile mount, it says that the upper directory may be damaged, and the kernel refuses it. After a mere
  // stop of the container it is not. Source: kernel overlayfs.rst, "Volatile mount".
  await rm(join(work, 'work', 'incompat'), { recursive: true, force: true });
  await mountOverlay({ lower, upper: { dir: upper, work }, target, settings: { index: 'off' }, flags: volatile ? ['volatile'] : [], label });
}

/** What is mounted shows the uppermost directory's own attributes at its root, so they must be the image's, until the container changes them. */
async function adoptRoot(top: string | undefined, upper: string, work: string): Promise<void> {
  if (top === undefined) return;
  const wasMounted = await lstat(join(work, 'work')).then(
    () => true,
    () => false,
  );
  if (wasMounted) return;
  const { mode, uid, gid, atime, mtime } = await stat(top);
  await chown(upper, uid, gid);
  await chmod(upper, mode & 0o7777);
  await utimes(upper, atime, mtime);
}

/** Takes down what is mounted at `target`, lazily where it is in use. Nothing mounted, or no such directory, is fine. */
export async function unmount(target: string): Promise<void> {
  for (let count = 0; count < MAX_STACKED; count += 1) {
    try {
      await umountAsync(target, MNT.NOFOLLOW);
    } catch (err) {
      if (!(err instanceof SysError)) throw err;
      if (['EINVAL', 'ENOENT', 'ENOTDIR'].includes(err.code)) return;
      if (err.code !== 'EBUSY') throw err;
      await umountAsync(target, MNT.NOFOLLOW | MNT.DETACH);
    }
  }
}

/**
 * What a directory tree takes on its disk, each inode once. Files that come and go meanwhile are counted or not, and what
 * lies deeper than a path is long is not: whoever writes there must not hide the rest. Walks the whole tree: for the background only.
 */
export async function measureTree(path: string, signal: AbortSignal): Promise<{ usedBytes: number; inodesUsed: number }> {
  const linked = new Set<number>();
  let usedBytes = 0;
  let inodesUsed = 0;
  const visit = async (directory: Buffer): Promise<void> => {
    signal.throwIfAborted();
    let entries: Awaited<ReturnType<typeof opendir>>;
    try {
      entries = await opendir(directory, { encoding: 'latin1', bufferSize: 256 });
    } catch (err) {
      if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG')) return;
      throw err;
    }
    const directories: Buffer[] = []; // entered after this one is closed
    for await (const { name } of entries) {
      const child = Buffer.concat([directory, Buffer.from('/'), Buffer.from(name, 'latin1')]);
      const found = await lstat(child).catch((err: unknown) => {
        if (isErrno(err, 'ENOENT', 'ENAMETOOLONG')) return undefined;
        throw err;
      });
      if (found === undefined) continue;
      if (found.isDirectory()) directories.push(child);
      else if (found.nlink > 1) {
        if (linked.has(found.ino)) continue;
        linked.add(found.ino);
      }
      usedBytes += found.blocks * 512;
      inodesUsed += 1;
    }
    for (const child of directories) await visit(child);
  };
  await visit(Buffer.from(path));
  return { usedBytes, inodesUsed };
}
