import { CriError } from '#base/errors.ts';
import type { ImageId } from './digest.ts';
import { withIdmapped } from './idmapped.ts';
import type { Image } from './image.ts';
import type { ImageStore } from './image-store.ts';
import type { LayerStore } from './layer-store.ts';
import { mountReadOnly, mountWritable } from './overlay.ts';

/** Mount options are one page: from here on layers go by short names. */
const MANY_LAYERS = 25;

interface RootfsDeps {
  readonly root: string;
  readonly images: ImageStore;
  readonly layers: LayerStore;
}

/** See `Storage.lowerDirs`. */
export function lowerDirs(deps: RootfsDeps, image: ImageId): string[] {
  return deps.layers.directories(imageOf(deps, image).layers);
}

/** Where an image is mounted, and as whose. */
interface SeenMount {
  readonly target: string;
  /** Path of the user namespace that sees its own ids. */
  readonly userns?: string | undefined;
  /** SELinux context of everything in it. */
  readonly label?: string | undefined;
}

/** See `Storage.mountRootfs`. */
export async function mountRootfs(
  deps: RootfsDeps,
  image: ImageId,
  { containerDir, target, volatile = true, userns, label }: SeenMount & { readonly containerDir: string; readonly volatile?: boolean },
): Promise<void> {
  const { layers } = imageOf(deps, image);
  using _held = deps.layers.hold(layers);
  const full = deps.layers.directories(layers);
  const lower = full.length <= MANY_LAYERS ? full : await deps.layers.shortDirectories(layers);
  const mountOn = (dirs: readonly string[]): Promise<void> => mountWritable(dirs, containerDir, target, { volatile, label });
  await (userns === undefined ? mountOn(lower) : withIdmapped(deps.root, lower, userns, mountOn));
}

/** See `Storage.mountImage`. */
export async function mountImage(deps: RootfsDeps, image: ImageId, { target, userns, label }: SeenMount): Promise<void> {
  const { layers } = imageOf(deps, image);
  using _held = deps.layers.hold(layers);
  const lower = await deps.layers.readOnlyDirectories(layers);
  const mountOn = (dirs: readonly string[]): Promise<void> => mountReadOnly(dirs, target, label);
  await (userns === undefined ? mountOn(lower) : withIdmapped(deps.root, lower, userns, mountOn));
}

function imageOf({ images }: RootfsDeps, id: ImageId): Image {
  const image = images.get(id);
  if (image === undefined) throw new CriError('notFound', `image ${id} is not in the store`);
  return image;
}
