import { takeDownContainer } from '../container/take-down.ts';
import { discardBundle } from '../container/workload.ts';
import type { Parts } from '../parts.ts';
import { stopSandbox } from './stop.ts';

/**
 * Removes a pod with all its containers; forcibly, if anything still runs. Safe to repeat: the record goes last.
 * @throws the first failure; the record then names what is left.
 */
export async function removeSandbox(parts: Parts, id: string, caller: AbortSignal): Promise<void> {
  const record = parts.sandboxes.get(id);
  if (record === undefined) return;
  await stopSandbox(parts, id, caller);
  const own = [...parts.containers.values()].filter(({ sandboxId }) => sandboxId === id);
  await Promise.all(own.map((container) => takeDownContainer(parts, container.id)));
  // Past the point of return: the caller's leaving ends its waiting only.
  await using _lock = await parts.locks.acquire(id, parts.signal);
  await discardBundle(parts, id);
  const shared = [...parts.sandboxes.values()].some((other) => other.id !== id && `${other.cgroupParent}/`.startsWith(`${record.madeCgroupFrom}/`));
  // The runtime of another pod may be about to make its own below it; the last one takes it away.
  if (record.madeCgroupFrom !== undefined && !shared) await parts.cgroups.removeEmpty(record.cgroupParent, record.madeCgroupFrom);
  await parts.sandboxes.remove(id);
  parts.selinuxLevels.release(id);
  parts.doomed.delete(id);
}

/** Longest wait for an undo before the failure is answered; the sweeper goes on with it. */
const UNDO_MS = 15_000;

/**
 * Undoes a pod that nobody may see: after a failed creation, or when nobody claimed it. Never rejects: what cannot be
 * undone now stays doomed, with its record, and the sweeper tries again until it is gone.
 */
export async function takeDownSandbox(parts: Parts, id: string, { reason }: { readonly reason: string }): Promise<void> {
  if (parts.sandboxes.get(id) === undefined) return; // it was never written
  parts.doomed.add(id);
  const undone = removeSandbox(parts, id, parts.signal).then(
    () => parts.log.info({ sandboxId: id, reason }, 'Undid sandbox'),
    (err: unknown) => parts.log.warn({ err, sandboxId: id, reason }, 'Could not undo sandbox yet'),
  );
  parts.background('undo sandbox', () => undone);
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, UNDO_MS);
  await Promise.race([undone, promise]);
  clearTimeout(timer);
}
