import { closeSync, constants } from 'node:fs';
import { lstat, open, opendir } from 'node:fs/promises';
import { CriError, describeError, invalidField, isErrno } from '#base/errors.ts';
import { lsetxattrAsync, openBelowAsync, readXattrAsync } from '#base/sys.ts';
import type { Mount } from '../../proto/cri.ts';
import { isWithin } from '../oci/mount-info.ts';
import type { ResolvedMount } from '../oci/mounts.ts';

const ATTRIBUTE = 'security.selinux';

/** Entries of one directory that are under way at once: the thread pool has other work too. */
const PARALLEL = 16;

/** A label there is the node's own: another one on it, or on all that is in it, would take the node's services from it. */
const NODES_OWN: readonly string[] = ['/', '/etc', '/etc/passwd', '/etc/shadow', '/etc/group', '/etc/gshadow', '/etc/pki', '/etc/selinux', '/etc/ssl']
  .concat(['/home', '/media', '/mnt', '/opt', '/root', '/run', '/srv', '/tmp', '/var', '/var/cache', '/var/lib', '/var/lib/kubelet', '/var/log', '/var/run'])
  .concat(['/var/tmp']);

/** The same, with everything below. */
const NODES_OWN_TREES: readonly string[] = ['/bin', '/boot', '/dev', '/lib', '/lib32', '/lib64', '/proc', '/sbin', '/sys', '/usr'];

export interface RelabelOptions {
  readonly label: string;
  /** Directories of the daemon's own, which nothing in or around may be labelled for one pod. */
  readonly ownRoots: readonly string[];
  readonly signal: AbortSignal;
}

/**
 * Gives the sources of the mounts that ask for it (`selinux_relabel`) the label of the container's files, with all that is
 * in them. What has it already is not written to, and a file system that takes no labels keeps what it has. There is no
 * short cut by the uppermost directory's label: one that was interrupted would never be finished. A kubelet that wants
 * speed mounts the volume with the label and asks for none.
 * @throws {CriError} `invalidArgument` for a place whose labels the node itself lives on; `failedPrecondition` with the
 * path that could not be labelled.
 */
export async function relabelMounts(mounts: readonly Mount[], resolved: readonly ResolvedMount[], options: RelabelOptions): Promise<void> {
  for (const [index, mount] of mounts.entries()) {
    const source = resolved[index]?.source;
    if (!mount.selinux_relabel || source === undefined || (mount.image !== null && mount.image.image !== '')) continue;
    const field = `config.mounts[${index}]`;
    if (isNodesOwn(source, options.ownRoots))
      throw invalidField(`${field}.host_path`, source, "holds the node's own files: selinux_relabel would take them from it");
    try {
      await relabelTree(source, options.label, options.signal);
    } catch (err) {
      options.signal.throwIfAborted();
      throw new CriError('failedPrecondition', `${field}.selinux_relabel: cannot label ${source}: ${describeError(err)}`, { cause: err });
    }
  }
}

/** True for a real path that must not get a pod's label, because of what it is or what lies in it. */
export function isNodesOwn(path: string, ownRoots: readonly string[]): boolean {
  return (
    NODES_OWN.includes(path) || NODES_OWN_TREES.some((tree) => isWithin(path, tree)) || ownRoots.some((root) => isWithin(root, path) || isWithin(path, root))
  );
}

/**
 * Labels a file, or a directory with all in it, other mounts included. Containers that use it may change it meanwhile: each
 * directory is opened from the uppermost one, over no symlink, and its entries are reached through it, so that nobody can
 * lead us out. However deep it goes, two descriptors are open.
 */
export async function relabelTree(path: string, label: string, signal: AbortSignal): Promise<void> {
  const value = Buffer.from(`${label}\0`);
  if (!(await lstat(path)).isDirectory()) {
    await relabelOne(Buffer.from(path), value);
    return;
  }
  await using top = await open(path, DIRECTORY);
  const pending: Buffer[] = [Buffer.from('.')];
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    signal.throwIfAborted();
    await relabelDirectory(top.fd, directory, { value, found: (below) => pending.push(below) });
  }
}

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** One directory and all in it but other directories, which are told by their path from the uppermost one. */
async function relabelDirectory(
  top: number,
  path: Buffer,
  { value, found }: { readonly value: Buffer; readonly found: (below: Buffer) => void },
): Promise<void> {
  let fd: number;
  try {
    fd = await openBelowAsync(top, path, DIRECTORY);
  } catch (err) {
    // Gone, or something else, since it was listed.
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return;
    throw err;
  }
  try {
    const held = Buffer.from(`/proc/self/fd/${fd}/`);
    // What takes no label has none below either, but for other mounts, which keep their own.
    if (!(await relabelOne(Buffer.concat([held, Buffer.from('.')]), value))) return;
    let files: Buffer[] = [];
    const labelFiles = async (): Promise<void> => {
      await Promise.all(files.map((file) => relabelOne(file, value)));
      files = [];
    };
    // Names are bytes: latin1 keeps each.
    for await (const entry of await opendir(held, { encoding: 'latin1', bufferSize: 256 })) {
      const name = Buffer.from(entry.name, 'latin1');
      if (entry.isDirectory()) found(Buffer.concat([path, Buffer.from('/'), name]));
      else files.push(Buffer.concat([held, name]));
      if (files.length >= PARALLEL) await labelFiles();
    }
    await labelFiles();
  } finally {
    closeSync(fd);
  }
}

/** False where the file system takes no labels. */
async function relabelOne(path: Buffer, value: Buffer): Promise<boolean> {
  try {
    // A write is a change of the inode: it dirties the disk, and tells everyone who watches.
    if ((await readXattrAsync(path, ATTRIBUTE))?.equals(value)) return true;
    await lsetxattrAsync(path, ATTRIBUTE, value);
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return true;
    if (isErrno(err, 'ENOTSUP', 'EOPNOTSUPP')) return false;
    throw err;
  }
}
