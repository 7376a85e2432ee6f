import { writeFileAtomic } from '#base/atomic-file.ts';
import { CriError } from '#base/errors.ts';
import type { Locks } from '#base/lock.ts';
import type { Log } from '#base/log.ts';
import { syncfsAsync } from '#base/sys.ts';
import { chainIds, type Digest, digestOf, type ImageId } from './digest.ts';
import type { Image } from './image.ts';
import type { ImageNames, ImageStore } from './image-store.ts';
import type { LayerStore } from './layer-store.ts';
import type { LayerPlan } from './layer-unpack.ts';
import { hostPlatform, MAX_LAYERS, parseConfig } from './manifest.ts';

/** An image whose bytes can be had: from a registry or an archive. */
export interface ImageSource {
  /** For messages. */
  readonly name: string;
  readonly configText: string;
  /** The blobs of its layers, lowest first. */
  readonly layers: readonly LayerSource[];
  /** Called when all of them are in the store. */
  readonly onLayers?: () => void;
  readonly names: ImageNames;
}

export interface LayerSource {
  readonly sizeBytes: number;
  readonly withBlob: LayerPlan['withBlob'];
  /** Called when it is in the store. */
  readonly onDone?: () => void;
}

export interface InstallDeps {
  readonly root: string;
  readonly log: Log;
  readonly layers: LayerStore;
  readonly images: ImageStore;
  /** By image id: an image is not removed while it gets its record. */
  readonly locks: Locks;
}

/**
 * Makes an image: all layers that are missing, one sync of the file system for them, then the record. What fails on the
 * way leaves no image, and the layers that were done for the next try.
 */
export async function installImage({ root, log, layers, images, locks }: InstallDeps, source: ImageSource, signal: AbortSignal): Promise<Image> {
  const { name } = source;
  const { os, architecture, diffIds, config } = parseConfig(source.configText, name);
  const platform = hostPlatform();
  if (os !== platform.os) throw new CriError('invalidArgument', `image ${name} is for ${os || 'no operating system'}, not for ${platform.os}`);
  // Images put together by hand often say nothing, or the wrong thing, about this; they may run all the same.
  if (architecture !== platform.architecture) log.warn({ image: name, reason: architecture }, 'Installed image of another architecture');
  if (diffIds.length !== source.layers.length) {
    throw new CriError('invalidArgument', `image ${name} has ${source.layers.length} layers in its manifest and ${diffIds.length} in its config`);
  }
  if (diffIds.length > MAX_LAYERS)
    throw new CriError('invalidArgument', `image ${name} has ${diffIds.length} layers, more than the ${MAX_LAYERS} that overlayfs mounts`);
  const id = digestOf(source.configText) as ImageId;
  const chain = chainIds(diffIds);
  using _held = layers.hold(chain);
  await ensureLayers(layers, diffIds, source.layers, signal);
  source.onLayers?.();
  await using _turn = await locks.acquire(id, signal);
  if (images.get(id) === undefined) {
    await writeFileAtomic(images.configPath(id), source.configText);
    await syncfsAsync(root);
    signal.throwIfAborted();
  }
  const sizeBytes = source.layers.reduce((sum, layer) => sum + layer.sizeBytes, Buffer.byteLength(source.configText));
  return images.put({ id, sizeBytes, layers: chain, os, architecture, config }, source.names);
}

/** All at once; the first failure ends the rest, and is the one that is told. */
async function ensureLayers(layers: LayerStore, diffIds: readonly Digest[], sources: readonly LayerSource[], signal: AbortSignal): Promise<void> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  const chain = chainIds(diffIds);
  const works: Promise<void>[] = [];
  for (const [index, source] of sources.entries()) {
    const chainId = chain[index];
    const diffId = diffIds[index];
    if (chainId === undefined || diffId === undefined) break;
    const plan: LayerPlan = { chainId, diffId, below: chain.slice(0, index), belowReady: works[index - 1] ?? Promise.resolve(), withBlob: source.withBlob };
    const work = layers.ensure(plan, either).then(source.onDone, (err: unknown) => {
      failed.abort(err);
      throw err;
    });
    work.catch(() => {}); // awaited below, or only by the layer above
    works.push(work);
  }
  await Promise.allSettled(works);
  signal.throwIfAborted();
  failed.signal.throwIfAborted();
}
