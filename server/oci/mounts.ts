import { readFile, realpath } from 'node:fs/promises';
import { posix } from 'node:path';
import { CriError, describeError, invalidField, isErrno } from '#base/errors.ts';
import { makeDirectory } from '#base/make-directory.ts';
import { type Mount, MountPropagation } from '../../proto/cri.ts';
import { isWithin, type MountPoint, mountOf, parseMountInfo } from './mount-info.ts';

/** One of the request's mounts with its host side looked at. */
export interface ResolvedMount {
  readonly containerPath: string;
  /** Real path on the host: no symlink in it. */
  readonly source: string;
  readonly readonly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly propagation: 'rprivate' | 'rslave' | 'rshared';
  /** Of `nodev nosuid noexec`. */
  readonly flags: readonly string[];
}

export interface MountFeatures {
  /** The OCI runtime and the kernel know `rro`. */
  readonly recursiveReadOnly: boolean;
  /** Directories in which the daemon mounts and unmounts: its root and runroot. */
  readonly ownRoots: readonly string[];
}

/** What a mount may ask for beside read-only. Source: api.proto, Mount.mount_options. */
const MOUNT_OPTIONS: readonly string[] = ['nodev', 'nosuid', 'noexec'];

/** @throws {CriError} `invalidArgument`, or `unimplemented` for kinds of mount that are not supported, naming the field. */
export function validateMounts(mounts: readonly Mount[]): void {
  for (const [index, mount] of mounts.entries()) {
    const field = `config.mounts[${index}]`;
    // The kubelet asks for idmapped mounts only in pods with a user namespace, and for image volumes only where its gate is on.
    if (mount.image !== null && mount.image.image !== '')
      throw new CriError('unimplemented', `${field}.image: image volumes are not supported by this version`);
    if (mount.image_sub_path !== '') throw invalidField(`${field}.image_sub_path`, mount.image_sub_path, 'needs an image');
    if (mount.uidMappings.length + mount.gidMappings.length > 0) {
      throw new CriError('unimplemented', `${field}.uidMappings: idmapped mounts are not supported by this version`);
    }
    checkAbsolute(`${field}.host_path`, mount.host_path);
    checkAbsolute(`${field}.container_path`, mount.container_path);
    if (posix.normalize(mount.container_path) === '/') throw invalidField(`${field}.container_path`, mount.container_path, 'is the whole root file system');
    if (!Object.values(MountPropagation).includes(mount.propagation)) throw invalidField(`${field}.propagation`, mount.propagation, 'is no mount propagation');
    validateRecursiveReadOnly(field, mount);
    const unknown = mount.mount_options.find((option) => !MOUNT_OPTIONS.includes(option));
    if (unknown !== undefined) throw invalidField(`${field}.mount_options`, unknown, `is none of ${MOUNT_OPTIONS.join(', ')}`);
  }
}

/**
 * Finds the host side of each mount; the result keeps the request's order.
 *
 * A missing source becomes a directory. api.proto asks for an error, but Kubernetes promises that a hostPath volume
 * without a type is not checked, both peers make the directory, and pods in use rely on it.
 * @throws {CriError} `invalidArgument` naming the field.
 */
export async function resolveMounts(mounts: readonly Mount[], features: MountFeatures): Promise<readonly ResolvedMount[]> {
  const propagates = mounts.some(({ propagation }) => propagation !== MountPropagation.PROPAGATION_PRIVATE);
  const mountPoints = propagates ? parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')) : [];
  return await Promise.all(
    mounts.map(async (mount, index) => {
      const field = `config.mounts[${index}]`;
      if (mount.recursive_read_only && !features.recursiveReadOnly) {
        throw new CriError('invalidArgument', `${field}.recursive_read_only: not supported by the runtime handler`);
      }
      const source = await resolveSource(`${field}.host_path`, mount.host_path);
      checkPropagation(field, mount, source, mountPoints);
      return {
        containerPath: posix.normalize(mount.container_path).replace(/\/$/, ''),
        source,
        readonly: mount.readonly,
        recursiveReadOnly: mount.recursive_read_only,
        propagation: propagationOf(mount, source, features),
        flags: mount.mount_options,
      };
    }),
  );
}

function validateRecursiveReadOnly(field: string, mount: Mount): void {
  if (!mount.recursive_read_only) return;
  if (!mount.readonly) throw invalidField(`${field}.recursive_read_only`, true, 'needs readonly');
  if (mount.propagation !== MountPropagation.PROPAGATION_PRIVATE) throw invalidField(`${field}.recursive_read_only`, true, 'needs propagation PRIVATE');
}

function checkAbsolute(field: string, path: string): void {
  if (!path.startsWith('/') || path.includes('\0')) throw invalidField(field, path, 'is no absolute path');
}

async function resolveSource(field: string, path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (err) {
    if (!isErrno(err, 'ENOENT'))
      throw new CriError('invalidArgument', `${invalidField(field, path, 'cannot be mounted').message}: ${describeError(err)}`, { cause: err });
  }
  try {
    await makeDirectory(path);
    return await realpath(path);
  } catch (err) {
    throw new CriError('invalidArgument', `${invalidField(field, path, 'is missing and cannot be made').message}: ${describeError(err)}`, { cause: err });
  }
}

/** Source: kernel Documentation/filesystems/sharedsubtree.rst; a bind of a private mount cannot be made shared with it afterwards. */
function checkPropagation(field: string, mount: Mount, source: string, mountPoints: readonly MountPoint[]): void {
  if (mount.propagation === MountPropagation.PROPAGATION_PRIVATE) return;
  const on = mountOf(mountPoints, source);
  const bidirectional = mount.propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL;
  if (on?.shared === true || (on?.slave === true && !bidirectional)) return;
  const needed = bidirectional ? 'a shared mount' : 'a shared or slave mount';
  throw invalidField(`${field}.host_path`, mount.host_path, `lies on ${on?.path ?? '/'}, which is not ${needed} as its propagation needs`);
}

function propagationOf(mount: Mount, source: string, { ownRoots }: MountFeatures): ResolvedMount['propagation'] {
  if (mount.propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL) return 'rshared';
  if (mount.propagation === MountPropagation.PROPAGATION_HOST_TO_CONTAINER) return 'rslave';
  // A private copy of the host's tree would keep every rootfs in it mounted after the daemon has unmounted it.
  return ownRoots.some((root) => isWithin(root, source)) && !mount.recursive_read_only ? 'rslave' : 'rprivate';
}
