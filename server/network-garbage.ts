import { sleep } from '#base/abort.ts';
import type { Attachment } from '../cni/cni.ts';
import type { Parts } from './parts.ts';

const DAY_MS = 24 * 3_600_000;
/** Between two looks whether the network is ready. */
const LOOK_MS = 1_000;
/** A node on which CNI plugins never rest for so long is looked after tomorrow. */
const IDLE_MS = 600_000;

/**
 * Has the network's plugins collect what belongs to no pod: as soon as the network is ready after a start, and then daily,
 * until the daemon's signal ends it.
 */
export async function collectNetworkGarbage(parts: Pick<Parts, 'cni' | 'sandboxes' | 'log' | 'signal'>): Promise<void> {
  const { cni, sandboxes, log, signal } = parts;
  const attached = (): Attachment[] =>
    [...sandboxes.values()].filter(({ stop, attachment }) => stop === undefined && attachment !== undefined).map(({ attachment }) => attachment as Attachment);
  while (!signal.aborted) {
    try {
      while (!cni.status().ready) await sleep(LOOK_MS, signal);
      await cni.removeEmptyLeases();
      await cni.collectGarbage(attached, AbortSignal.any([signal, AbortSignal.timeout(IDLE_MS)]));
      await sleep(DAY_MS, signal);
    } catch (err) {
      if (signal.aborted) return;
      log.warn({ err }, 'Could not collect garbage of networks');
      await sleep(DAY_MS, signal).catch(() => {});
    }
  }
}
