import { CriError, quote } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { Image as CriImage, FilesystemUsage, ImageFilter, ImageSpec, Init } from '../../proto/cri.ts';
import { describeProgress, type Image, type Storage } from '../../storage/storage.ts';
import type { Handler, StreamHandler } from '../call.ts';
import type { WritableLayerUsage } from '../container/writable-usage.ts';
import type { Parts } from '../parts.ts';
import { sendPortions } from './portions.ts';

export const listImages =
  ({ storage }: Pick<Parts, 'storage'>): Handler<'ListImages'> =>
  async ({ filter }) => ({ images: selectImages(storage, filter).map(criImage) });

/** api.proto, StreamImages: the same list as it is now, in portions. */
export const streamImages =
  ({ storage }: Pick<Parts, 'storage'>): StreamHandler<'StreamImages'> =>
  async ({ filter }, _call, send) =>
    sendPortions(selectImages(storage, filter), (images) => ({ images: images.map(criImage) }), send);

function selectImages(storage: Parts['storage'], filter: ImageFilter | null): readonly Image[] {
  const name = filter?.image?.image ?? '';
  if (name === '') return storage.images();
  const found = storage.find(name);
  return found === undefined ? [] : [found];
}

/** api.proto, ImageStatus: an image that is not there is an empty answer, not an error. */
export const imageStatus =
  ({ storage }: Pick<Parts, 'storage'>): Handler<'ImageStatus'> =>
  async ({ image, verbose }) => {
    const found = storage.find(requireName(image));
    if (found === undefined) return {};
    if (!verbose) return { image: criImage(found) };
    const info = { chainID: found.layers.at(-1) ?? '', imageSpec: await storage.readConfig(found.id) };
    return { image: criImage(found), info: { info: JSON.stringify(info) } };
  };

export const pullImage =
  ({ storage, log }: Pick<Parts, 'storage' | 'log'>): Handler<'PullImage'> =>
  async ({ image, auth, sandbox_config }, { signal, stage }) => {
    const name = requireName(image);
    const options = {
      handler: image?.runtime_handler ?? '',
      namespace: sandbox_config?.metadata?.namespace ?? '',
      ...(auth === null
        ? {}
        : {
            auth: {
              username: auth.username,
              password: auth.password,
              auth: auth.auth,
              serverAddress: auth.server_address,
              identityToken: auth.identity_token,
              registryToken: auth.registry_token,
            },
          }),
    };
    stage.name = `pulling image ${name}`;
    stage.progress = () => {
      const progress = storage.pullProgress(name, options);
      return progress === undefined ? undefined : describeProgress(progress);
    };
    const pulled = await storage.pull(name, { ...options, signal });
    log.info({ image: name, reason: pulled.id }, 'Pulled image');
    return { image_ref: pulled.id };
  };

/**
 * api.proto, RemoveImage: one name removes the image with all its names; an image that is not there is no error. The answer
 * comes when the disk is free again: the kubelet's eviction looks at once.
 */
export const removeImage =
  (parts: Pick<Parts, 'storage' | 'log'>): Handler<'RemoveImage'> =>
  async ({ image }, { signal, stage }) => {
    const name = requireName(image);
    stage.name = `removing image ${name}`;
    await removeImageNamed(parts, name, signal);
    return {};
  };

/** Removes an image with all its names; gives its id, or `undefined` when it is not there. See `Storage.remove` for the failures. */
export async function removeImageNamed(
  { storage, log }: { readonly storage: Pick<Storage, 'find' | 'remove'>; readonly log: Log },
  name: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const found = storage.find(name);
  if (found === undefined) return undefined;
  await storage.remove(found.id, { signal });
  log.info({ image: name, reason: found.id }, 'Removed image');
  return found.id;
}

/**
 * Who keeps an image from being removed: a container with it as its root or as a volume, whatever its state, since the
 * kubelet counts exited ones too; or a pod whose pause it is.
 */
export function userOfImage({ containers, sandboxes }: Pick<Parts, 'containers' | 'sandboxes'>, image: string): string | undefined {
  for (const { id, imageId, imageVolumes = [] } of containers.values()) if (imageId === image || imageVolumes.includes(image)) return `container ${id}`;
  for (const { id, pauseImage } of sandboxes.values()) if (pauseImage === image) return `pod sandbox ${id}`;
  return undefined;
}

/** Images and container layers lie on one file system, and both lists are there: the kubelet needs both. */
export const imageFsInfo =
  ({ storage, containers, writable }: Pick<Parts, 'storage' | 'containers'> & { readonly writable: Pick<WritableLayerUsage, 'get'> }): Handler<'ImageFsInfo'> =>
  async () => {
    const { mountpoint, usedBytes, inodesUsed } = storage.fsInfo();
    const layers = { bytes: 0, inodes: 0 };
    for (const { id } of containers.values()) {
      layers.bytes += writable.get(id)?.bytes ?? 0;
      layers.inodes += writable.get(id)?.inodes ?? 0;
    }
    return {
      image_filesystems: [usage(mountpoint, usedBytes, inodesUsed)],
      container_filesystems: [usage(mountpoint, layers.bytes, layers.inodes)],
    };
  };

function usage(mountpoint: string, bytes: number, inodes: number): Init<FilesystemUsage> {
  return {
    timestamp: String(BigInt(Date.now()) * 1_000_000n),
    fs_id: { mountpoint },
    used_bytes: { value: String(bytes) },
    inodes_used: { value: String(inodes) },
  };
}

function requireName(image: ImageSpec | null): string {
  if (image === null || image.image === '') throw new CriError('invalidArgument', `image.image: ${quote(image?.image ?? null)} names no image`);
  return image.image;
}

function criImage({ id, repoTags, repoDigests, sizeBytes, config, pinned }: Image): Init<CriImage> {
  return {
    id,
    repo_tags: repoTags,
    repo_digests: repoDigests,
    size: String(sizeBytes),
    ...imageUser(config.user),
    spec: { image: id },
    pinned,
  };
}

/** Exactly one of uid and username: without either the kubelet assumes root, and refuses it under runAsNonRoot. */
function imageUser(user: string): Pick<Init<CriImage>, 'uid' | 'username'> {
  const name = user.split(':')[0] ?? '';
  if (name === '') return { uid: { value: '0' } };
  return /^\d+$/.test(name) ? { uid: { value: name } } : { username: name };
}
