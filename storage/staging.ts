import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { unmount } from './overlay.ts';
import type { Trash } from './trash.ts';

/** Where things are made before they get their place. Nothing in it outlives its maker, nor a restart. */
export class Staging {
  readonly #dir: string;
  readonly #trash: Trash;
  #serial = 0;

  private constructor(dir: string, trash: Trash) {
    this.#dir = dir;
    this.#trash = trash;
  }

  /** Clears what an earlier run left, mounts of half-made layers too. */
  static async open(dir: string, trash: Trash): Promise<Staging> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const staging = new Staging(dir, trash);
    for (const name of await readdir(dir)) await staging.discard(join(dir, name));
    return staging;
  }

  /** A path that nothing has yet. */
  newPath(name: string): string {
    this.#serial += 1;
    return join(this.#dir, `${this.#serial}-${name}`);
  }

  /** Takes away what was made, if it is still there. */
  async discard(path: string): Promise<void> {
    await unmount(mountpointIn(path));
    await this.#trash.take(path);
  }
}

/** Where a layer that needs the ones below it is mounted over them while it is unpacked. */
export function mountpointIn(path: string): string {
  return join(path, 'merged');
}
