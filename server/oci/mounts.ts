import { readFile, realpath } from 'node:fs/promises';
import { posix } from 'node:path';
import { CriError, describeError, invalidField, isErrno } from '#base/errors.ts';
import { makeDirectory } from '#base/make-directory.ts';
import { type IDMapping, type Mount, MountPropagation } from '../../proto/cri.ts';
import { validateMappings } from './id-mapping.ts';
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
  /** Both empty for a mount that shows owners as they are. */
  readonly uidMappings: readonly IDMapping[];
  readonly gidMappings: readonly IDMapping[];
}

export interface MountFeatures {
  /** The OCI runtime and the kernel know `rro`. */
  readonly recursiveReadOnly: boolean;
  /** The OCI runtime knows mounts with id mappings. */
  readonly idmapped: boolean;
  /** Directories in which the daemon mounts and unmounts: its root and runroot. */
  readonly ownRoots: readonly string[];
}

/** What a mount may ask for beside read-only. Source: api.proto, Mount.mount_options. */
const MOUNT_OPTIONS: readonly string[] = ['nodev', 'nosuid', 'noexec'];

/** True for a mount that shows an image instead of a directory of the host. */
export function isImageMount({ image }: Pick<Mount, 'image'>): boolean {
  return image !== null && image.image !== '';
}

/** @throws {CriError} `invalidArgument` naming the field. */
export function validateMounts(mounts: readonly Mount[]): void {
  for (const [index, mount] of mounts.entries()) {
    const field = `config.mounts[${index}]`;
    if (isImageMount(mount)) validateImageMount(field, mount);
    else {
      checkAbsolute(`${field}.host_path`, mount.host_path);
      if (mount.image_sub_path !== '') throw invalidField(`${field}.image_sub_path`, mount.image_sub_path, 'needs an image');
    }
    validateIdMappings(field, mount);
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
 * @param imageSources where the images of image mounts are, by the mount's place in the list.
 * @throws {CriError} `invalidArgument` naming the field.
 */
export async function resolveMounts(
  mounts: readonly Mount[],
  features: MountFeatures,
  imageSources: ReadonlyMap<number, string> = new Map(),
): Promise<readonly ResolvedMount[]> {
  const propagates = mounts.some(({ propagation }) => propagation !== MountPropagation.PROPAGATION_PRIVATE);
  const mountPoints = propagates ? parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')) : [];
  return await Promise.all(
    mounts.map(async (mount, index) => {
      const field = `config.mounts[${index}]`;
      if (mount.recursive_read_only && !features.recursiveReadOnly) {
        throw new CriError('invalidArgument', `${field}.recursive_read_only: not supported by the runtime handler`);
      }
      const image = imageSources.get(index);
      const mapped = image === undefined && mount.uidMappings.length > 0;
      if (mapped && !features.idmapped) throw new CriError('invalidArgument', `${field}.uidMappings: idmapped mounts are not supported by the runtime handler`);
      const source = image ?? (await resolveSource(`${field}.host_path`, mount.host_path));
      checkPropagation(field, mount, source, mountPoints);
      return {
        containerPath: posix.normalize(mount.container_path).replace(/\/$/, ''),
        source,
        readonly: mount.readonly || image !== undefined,
        recursiveReadOnly: mount.recursive_read_only,
        propagation: propagationOf(mount, source, features),
        flags: mount.mount_options,
        // The owners of an image's files are mapped layer by layer: overlayfs as a whole cannot be.
        uidMappings: mapped ? mount.uidMappings : [],
        gidMappings: mapped ? mount.gidMappings : [],
      };
    }),
  );
}

function validateImageMount(field: string, { host_path, image_sub_path }: Mount): void {
  if (host_path !== '') throw invalidField(`${field}.host_path`, host_path, 'stands beside an image');
  if (image_sub_path.startsWith('/') || image_sub_path.includes('\0') || image_sub_path.split('/').includes('..'))
    throw invalidField(`${field}.image_sub_path`, image_sub_path, 'is no path inside of the image');
}

function validateIdMappings(field: string, { uidMappings, gidMappings }: Mount): void {
  validateMappings(`${field}.uidMappings`, uidMappings);
  validateMappings(`${field}.gidMappings`, gidMappings);
  if ((uidMappings.length === 0) !== (gidMappings.length === 0))
    throw new CriError('invalidArgument', `${field}.${uidMappings.length === 0 ? 'uidMappings' : 'gidMappings'}: is empty, the other one is not`);
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
