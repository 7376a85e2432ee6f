import type { Log } from '#base/log.ts';
import type { ImageStore } from './image-store.ts';
import type { LayerStore } from './layer-store.ts';

/** Layers of a pull that failed are kept so long for the next try. The kubelet's longest pause is 5 minutes. */
const KEEP_MS = 10 * 60_000;

/** The layers that no image has. */
export class UnusedLayers implements Disposable {
  readonly #layers: LayerStore;
  readonly #images: ImageStore;
  readonly #log: Log;
  #timer: NodeJS.Timeout | undefined;

  constructor({ layers, images, log }: { readonly layers: LayerStore; readonly images: ImageStore; readonly log: Log }) {
    this.#layers = layers;
    this.#images = images;
    this.#log = log;
  }

  /** Takes them out of their places; they are deleted later. Never rejects: what fails is logged. */
  async sweep(): Promise<void> {
    try {
      const { gone } = await this.#layers.sweep(() => this.#images.usedLayers());
      gone.catch(() => {}); // the trash has told
    } catch (err) {
      this.#log.warn({ err }, 'Could not free layers');
    }
  }

  /** Sweeps in ten minutes, once for all who ask until then. */
  sweepLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.sweep();
    }, KEEP_MS).unref();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
