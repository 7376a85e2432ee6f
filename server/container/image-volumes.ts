import { closeSync, mkdirSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CriError, describeError, isErrno, quote } from '#base/errors.ts';
import { O_PATH, openInRoot } from '#base/sys.ts';
import type { Mount } from '../../proto/cri.ts';
import type { Image, Storage } from '../../storage/storage.ts';
import { isImageMount } from '../oci/mounts.ts';

/** The kubelet knows it by this word, which stands at the beginning of the message. Source: cri-api, pkg/errors. */
const MOUNT_FAILED = 'ImageVolumeMountFailed';

/** One of the request's mounts that shows an image. */
export interface ImageVolumeRequest {
  /** Its place in the request's mounts. */
  readonly index: number;
  readonly image: Image;
  readonly subPath: string;
}

/** @throws {CriError} `notFound` naming the field of an image that is not on this node. */
export function findImageVolumes(storage: Pick<Storage, 'find'>, mounts: readonly Mount[]): readonly ImageVolumeRequest[] {
  return mounts.flatMap((mount, index) => {
    if (!isImageMount(mount)) return [];
    const name = mount.image?.image ?? '';
    const image = storage.find(name);
    if (image === undefined)
      throw new CriError('notFound', `${MOUNT_FAILED}: config.mounts[${index}].image: ${quote(name)} is not on this node; pull it first`);
    return [{ index, image, subPath: mount.image_sub_path }];
  });
}

/** Where a container's image volumes are mounted, each by its place in the request's mounts. */
function volumesDirectory(bundle: string): string {
  return join(bundle, 'volumes');
}

/**
 * Mounts the images read-only into the bundle, each container for itself; their layers are shared by all.
 * @returns what is to be mounted into the container, by the mount's place: the image, or what `image_sub_path` names in it.
 * @throws {CriError} `invalidArgument` naming the field where the image does not have that path.
 */
export async function mountImageVolumes(
  storage: Pick<Storage, 'mountImage'>,
  volumes: readonly ImageVolumeRequest[],
  { bundle, userns, label }: { readonly bundle: string; readonly userns: string | undefined; readonly label: string | undefined },
): Promise<ReadonlyMap<number, string>> {
  const sources = new Map<number, string>();
  for (const { index, image, subPath } of volumes) {
    const target = join(volumesDirectory(bundle), String(index));
    mkdirSync(target, { recursive: true, mode: 0o711 });
    try {
      await storage.mountImage(image.id, target, { userns, label });
    } catch (err) {
      throw new CriError('unknown', `${MOUNT_FAILED}: config.mounts[${index}].image: ${describeError(err)}`, { cause: err });
    }
    sources.set(index, subPath === '' ? target : findInImage(target, subPath, index));
  }
  return sources;
}

/** Symlinks lead nowhere else: they are the image's. */
function findInImage(mounted: string, subPath: string, index: number): string {
  try {
    const fd = openInRoot(mounted, subPath, O_PATH);
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    const why = isErrno(err, 'ENOENT', 'ENOTDIR') ? 'is not in the image' : `cannot be mounted: ${describeError(err)}`;
    throw new CriError('invalidArgument', `${MOUNT_FAILED}: config.mounts[${index}].image_sub_path: ${quote(subPath)} ${why}`, { cause: err });
  }
}

/** Takes them down again. Safe to repeat. */
export async function unmountImageVolumes(storage: Pick<Storage, 'unmountImage'>, bundle: string): Promise<void> {
  let names: readonly string[];
  try {
    names = readdirSync(volumesDirectory(bundle));
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return;
    throw err;
  }
  for (const name of names) await storage.unmountImage(join(volumesDirectory(bundle), name));
  rmSync(volumesDirectory(bundle), { recursive: true, force: true });
}
