import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import type { Locks } from '#base/lock.ts';
import type { ChildPool } from './child-pool.ts';
import { type ChainId, hexOf, type ImageId } from './digest.ts';
import type { CheckFinding, CheckOptions, CheckSummary } from './finding.ts';
import type { Image } from './image.ts';
import type { ImageStore } from './image-store.ts';
import type { LayerStore } from './layer-store.ts';
import type { Trash } from './trash.ts';

export interface CheckDeps {
  readonly root: string;
  readonly images: ImageStore;
  readonly layers: LayerStore;
  readonly trash: Trash;
  /** Children that have nothing else to do. */
  readonly checkers: ChildPool;
  readonly locks: Locks;
  /** Who uses an image; it is not removed then. */
  usedBy(image: ImageId): string | undefined;
}

/** As `writeFileAtomic` names a file until it is whole. */
const TEMPORARY = /^\.([0-9a-f]{64})\./;

type Found = Omit<CheckFinding, 'repaired' | 'images'>;

/**
 * Looks for what is missing, altered or orphaned in the store, while it goes on being used. Nothing is taken away without
 * `repair`, and then only what is bad, the images that need it, and orphans.
 */
export async function checkStore(deps: CheckDeps, options: CheckOptions, onFinding: (finding: CheckFinding) => void): Promise<CheckSummary> {
  const check = new StoreCheck(deps, options, onFinding);
  const images = deps.images.list();
  for (const image of images) await check.image(image);
  const layers = deps.layers.list();
  for (const chainId of layers) await check.layer(chainId);
  await check.orphans();
  if (options.repair) await (await deps.layers.sweep(() => deps.images.usedLayers())).gone;
  return { layers: layers.length, images: images.length, findings: check.findings, removedImages: check.removedImages };
}

class StoreCheck {
  readonly #deps: CheckDeps;
  readonly #options: CheckOptions;
  readonly #onFinding: (finding: CheckFinding) => void;
  readonly removedImages: string[] = [];
  findings = 0;

  constructor(deps: CheckDeps, options: CheckOptions, onFinding: (finding: CheckFinding) => void) {
    this.#deps = deps;
    this.#options = options;
    this.#onFinding = onFinding;
  }

  async image({ id }: Image): Promise<void> {
    const { images } = this.#deps;
    this.#options.signal.throwIfAborted();
    const config = await readFile(images.configPath(id)).catch(unreadable);
    const image = images.get(id);
    if (image === undefined) return; // removed meanwhile
    if ('reason' in config) await this.#badImage(image, 'missing', `its config cannot be read: ${config.reason}`);
    else if (createHash('sha256').update(config).digest('hex') !== hexOf(id)) await this.#badImage(image, 'altered', 'its config has other content');
    else if (!(await images.isRecorded(id)) && images.get(id) !== undefined) {
      // All of it is known: writing it anew costs no image.
      if (this.#options.repair) await images.recordAnew(id);
      this.#report({ kind: 'damaged', what: 'image', id, message: 'its record is not what it was' }, [], this.#options.repair);
    }
  }

  async layer(chainId: ChainId): Promise<void> {
    const { layers, checkers, images } = this.#deps;
    const { full, signal } = this.#options;
    const result = await layers.verify(chainId, { checkers, full, signal });
    if (result?.problem === undefined) return;
    const { problem, count } = result;
    const more = count === 1 ? '' : `, and ${count - 1} more`;
    const found: Found = { kind: problem.kind, what: 'layer', id: chainId, message: `${problem.message}${more}` };
    await this.#bad(
      found,
      images.list().filter((image) => image.layers.includes(chainId)),
      () => layers.obstacle(chainId),
    );
  }

  /** What lies in the store's directories and belongs to nothing. Staging and trash are emptied by themselves. */
  async orphans(): Promise<void> {
    const { root, layers, images, trash, locks } = this.#deps;
    for (const name of await readdir(join(root, 'layers'))) {
      if (!layers.knows(name)) await this.#orphan(join('layers', name), 'layer', () => trash.take(join(root, 'layers', name)));
    }
    for (const name of await readdir(join(root, 'blobs'))) {
      const path = join(root, 'blobs', name);
      const isNeeded = (): boolean => images.get(`sha256:${name}` as ImageId) !== undefined;
      if (isNeeded()) continue;
      // It may be the config of an image that is being made, under its own name or a temporary one.
      await using _turn = await locks.acquire(`sha256:${TEMPORARY.exec(name)?.[1] ?? name}`, this.#options.signal);
      if (!isNeeded() && existsSync(path)) await this.#orphan(join('blobs', name), 'image', () => rm(path, { recursive: true, force: true }));
    }
    for (const name of await images.strangers()) {
      await this.#orphan(join('images', name), 'image', () => rm(join(root, 'images', name), { recursive: true, force: true }));
    }
  }

  #badImage(image: Image, kind: 'missing' | 'altered', message: string): Promise<void> {
    return this.#bad({ kind, what: 'image', id: image.id, message }, [image], async () => undefined);
  }

  /** Removes the images that a bad part costs, all or none of them, unless something is in the way. */
  async #bad(found: Found, images: readonly Image[], obstacle: () => Promise<string | undefined>): Promise<void> {
    const names = images.flatMap(namesOf);
    if (!this.#options.repair) {
      this.#report(found, names, false);
      return;
    }
    const hindrance = await obstacle();
    const user = images.map(({ id }) => this.#deps.usedBy(id)).find((name) => name !== undefined);
    const why = user === undefined ? hindrance : `${user} uses it`;
    if (why !== undefined) {
      this.#report({ ...found, message: `${found.message}; not repaired, since ${why}` }, names, false);
      return;
    }
    // Out of memory, and so out of sight, in the same step as the questions above.
    const recordsGone = Promise.all(images.map(({ id }) => this.#deps.images.delete(id)));
    await (found.what === 'layer' ? this.#deps.layers.drop(found.id as ChainId, recordsGone) : recordsGone);
    this.removedImages.push(...names);
    this.#report(found, names, true);
  }

  async #orphan(path: string, what: 'layer' | 'image', remove: () => Promise<unknown>): Promise<void> {
    if (this.#options.repair) await remove();
    this.#report({ kind: 'orphaned', what, id: path, message: 'nothing needs it' }, [], this.#options.repair);
  }

  #report(found: Found, images: readonly string[], repaired: boolean): void {
    this.findings += 1;
    this.#onFinding({ ...found, images, repaired });
  }
}

function namesOf({ id, repoTags, repoDigests }: Image): readonly string[] {
  if (repoTags.length > 0) return repoTags;
  return repoDigests.length > 0 ? repoDigests : [id];
}

function unreadable(err: unknown): { reason: string } {
  return { reason: isErrno(err, 'ENOENT') ? 'it is gone' : String(err) };
}
