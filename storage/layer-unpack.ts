import { chmod, mkdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { orAborted } from '#base/abort.ts';
import type { ChildPool } from './child-pool.ts';
import type { ChainId, Digest } from './digest.ts';
import { JobError, type UnpackJob, type UnpackLimits, type UnpackResult } from './jobs.ts';
import { LIST } from './layer-record.ts';
import { mountpointIn } from './staging.ts';
import type { Trash } from './trash.ts';

/** A layer's bytes on disk; `unverified` is the digest that they have yet to prove. */
export interface LayerBlob {
  readonly path: string;
  readonly unverified: Digest | undefined;
}

/** A layer to be made. */
export interface LayerPlan {
  readonly chainId: ChainId;
  readonly diffId: Digest;
  /** Lowest first. */
  readonly below: readonly ChainId[];
  /** Resolves when those are in the store. */
  readonly belowReady: Promise<void>;
  /** Runs `use` with the layer's blob, which is there for so long. */
  withBlob<T>(use: (blob: LayerBlob) => Promise<T>, signal: AbortSignal): Promise<T>;
}

interface UnpackDeps {
  readonly unpackers: ChildPool;
  readonly trash: Trash;
  readonly limits: UnpackLimits;
  /** The directories of a stack given lowest first, uppermost first; the short ones for mount options. */
  readonly stack: { directories(layers: readonly ChainId[]): string[]; shortDirectories(layers: readonly ChainId[]): Promise<string[]> };
}

/**
 * Unpacks by itself, beside the layers below, which may still be under way. Where the layer turns out to need them
 * (a hard link into one, a path over a symlink of one), it is unpacked again over a mount of them.
 */
export async function unpackLayer(
  { unpackers, trash, limits, stack }: UnpackDeps,
  plan: LayerPlan,
  { path, blob, signal }: { path: string; blob: LayerBlob; signal: AbortSignal },
): Promise<UnpackResult> {
  const diff = join(path, 'diff');
  const list = join(path, LIST);
  const source = { blob: blob.path, blobDigest: blob.unverified, diffId: plan.diffId };
  const job: UnpackJob = { op: 'unpack', ...source, dir: diff, mode: 'layer', merge: undefined, list, limits };
  try {
    const result = await unpackers.run<UnpackResult>(job, signal);
    await orAborted(plan.belowReady, signal);
    if (result.implied.length === 0 || plan.below.length === 0) return result;
    await unpackers.run({ op: 'settle', dir: diff, implied: result.implied, lower: stack.directories(plan.below) }, signal);
    return result;
  } catch (err) {
    if (!(err instanceof JobError) || err.kind !== 'needsLower') throw err;
  }
  await orAborted(plan.belowReady, signal);
  await trash.take(diff);
  await rm(list, { force: true });
  await makeDiff(diff);
  const merge = { lower: await stack.shortDirectories(plan.below), work: join(path, 'work'), mountpoint: mountpointIn(path) };
  await mkdir(merge.work, { mode: 0o700 });
  await mkdir(merge.mountpoint, { mode: 0o700 });
  const result = await unpackers.run<UnpackResult>({ ...job, mode: 'merged', merge } satisfies UnpackJob, signal);
  await trash.take(merge.work);
  await rmdir(merge.mountpoint);
  return result;
}

/** The root directory of a layer's tree. */
export async function makeDiff(path: string): Promise<void> {
  await mkdir(path);
  await chmod(path, 0o755); // the root directory of containers whose layers do not describe it; the umask applies to mkdir
}
