import { isAbort, sleep } from '#base/abort.ts';
import type { Log } from '#base/log.ts';

/** A running container's writable layer. */
export interface WritableLayer {
  readonly containerId: string;
  /** The overlay's upper directory. */
  readonly directory: string;
}

/** What a directory tree takes on disk. */
export interface DiskUsage {
  readonly bytes: number;
  readonly inodes: number;
}

export interface WritableUsage extends DiskUsage {
  /** When it was measured, in nanoseconds since 1970. */
  readonly timestampNs: bigint;
}

export interface WritableUsageDeps {
  /** The layers to keep measured, asked anew for every step. */
  readonly layers: () => Iterable<WritableLayer>;
  /** Adds up a tree without blocking the event loop. */
  readonly measure: (directory: string, options: { readonly signal: AbortSignal }) => Promise<DiskUsage>;
  readonly log: Log;
  /** Age at which a layer is measured again. Default 10,000. */
  readonly refreshMs?: number;
  /** How often to look for new layers when nothing is due. Default 5,000. */
  readonly lookMs?: number;
}

/** After a walk that took a second, nine seconds pass before the next: a tenth of one thread at most. */
const REST_FACTOR = 9;

/**
 * How much the writable layers hold, measured in the background: one tree at a time, the one measured longest ago first,
 * so that no request ever walks a tree. With many or large layers the figures get older, never the load higher.
 */
export class WritableLayerUsage implements AsyncDisposable {
  readonly #deps: Required<WritableUsageDeps>;
  readonly #known = new Map<string, { readonly usage: WritableUsage | undefined; readonly triedAtMs: number; readonly failed: boolean }>();
  readonly #end = new AbortController();
  readonly #loop: Promise<void>;

  constructor(deps: WritableUsageDeps) {
    this.#deps = { refreshMs: 10_000, lookMs: 5_000, ...deps };
    this.#loop = this.#run();
  }

  /** The latest figure; `undefined` before the first walk, and for what `layers` no longer lists. */
  get(containerId: string): WritableUsage | undefined {
    return this.#known.get(containerId)?.usage;
  }

  async #run(): Promise<void> {
    const { signal } = this.#end;
    const { refreshMs, lookMs, log } = this.#deps;
    while (!signal.aborted) {
      try {
        const next = this.#longestAgo();
        const dueInMs = next === undefined ? lookMs : next.triedAtMs + refreshMs - performance.now();
        if (next === undefined || dueInMs > 0) {
          await sleep(Math.min(dueInMs, lookMs), signal);
          continue;
        }
        const before = performance.now();
        await this.#measure(next.layer);
        await sleep(Math.max(1, (performance.now() - before) * REST_FACTOR), signal);
      } catch (err) {
        if (signal.aborted && isAbort(err)) return;
        log.error({ err }, 'Could not choose writable layer to measure');
        await sleep(lookMs, signal).catch(() => {});
      }
    }
  }

  /** The layer to measure next; forgets those that are not listed any more. */
  #longestAgo(): { readonly layer: WritableLayer; readonly triedAtMs: number } | undefined {
    const listed = new Set<string>();
    let next: { layer: WritableLayer; triedAtMs: number } | undefined;
    for (const layer of this.#deps.layers()) {
      listed.add(layer.containerId);
      const triedAtMs = this.#known.get(layer.containerId)?.triedAtMs ?? Number.NEGATIVE_INFINITY;
      if (next === undefined || triedAtMs < next.triedAtMs) next = { layer, triedAtMs };
    }
    for (const id of this.#known.keys()) if (!listed.has(id)) this.#known.delete(id);
    return next;
  }

  async #measure({ containerId, directory }: WritableLayer): Promise<void> {
    const { signal } = this.#end;
    const { measure, log } = this.#deps;
    const before = this.#known.get(containerId);
    try {
      const { bytes, inodes } = await measure(directory, { signal });
      const timestampNs = BigInt(Date.now()) * 1_000_000n;
      this.#known.set(containerId, { usage: { bytes, inodes, timestampNs }, triedAtMs: performance.now(), failed: false });
    } catch (err) {
      signal.throwIfAborted();
      // The old figure stays, with its old time. One warning until it works again.
      if (before?.failed !== true) log.warn({ containerId, path: directory, err }, 'Could not measure writable layer');
      this.#known.set(containerId, { usage: before?.usage, triedAtMs: performance.now(), failed: true });
    }
  }

  /** Ends the walk under way and waits for it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.#loop;
  }
}
