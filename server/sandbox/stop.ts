import { firstFailure } from '#base/errors.ts';
import { stopContainer } from '../container/stop.ts';
import { takeDownContainer } from '../container/take-down.ts';
import { deleteWorkload, killWorkload, type Workload } from '../container/workload.ts';
import type { Parts } from '../parts.ts';
import { podFiles, removePodFiles } from './files.ts';
import { unpinNamespaces } from './namespaces.ts';
import { podName, type SandboxRecord } from './sandbox.ts';

/** How long one attempt at stopping a pod may take. */
const STOP_MS = 120_000;

/**
 * Stops a pod: ends its containers and its pause process, takes it off the network, and lets its namespaces go. Safe to
 * repeat. What fails stays in the record and is tried again by the next call and by the sweeper; the pod is not ready
 * from the beginning.
 * @throws the first failure; everything else was tried nevertheless.
 */
export async function stopSandbox(parts: Parts, id: string, caller: AbortSignal): Promise<void> {
  await using _lock = await parts.locks.acquire(id, caller);
  const record = parts.sandboxes.get(id);
  if (record === undefined || isStopped(record)) return;
  // Not durable on purpose: after a crash the dead pause process says the same.
  parts.sandboxes.remember(id, (old) => ({ ...old, state: 'notReady' }));
  const signal = AbortSignal.any([parts.signal, AbortSignal.timeout(STOP_MS)]);
  const results = await Promise.allSettled([endProcesses(parts, record, signal), detachNetwork(parts, record, signal)]);
  const failures = results.filter((result) => result.status === 'rejected').map((result) => result.reason);
  if (failures.length === 0) {
    await removePodFiles(podFiles(parts.paths.bundle(id), record.namespaces));
    await unpinNamespaces(record.namespaces);
    await parts.sandboxes.update(
      id,
      (old) => {
        const { pause: _pause, attachment: _attachment, ...rest } = old;
        return { ...rest, state: 'notReady', namespaces: {}, ips: [] };
      },
      { lasting: true },
    );
    parts.log.info({ sandboxId: id, pod: podName(record.config) }, 'Stopped sandbox');
    return;
  }
  await parts.sandboxes.update(id, (old) => ({ ...old, state: 'notReady' }));
  throw firstFailure(failures[0]);
}

/** Nothing of the pod is left but its record and its containers' remains. */
export function isStopped({ state, pause, attachment, namespaces }: SandboxRecord): boolean {
  return state === 'notReady' && pause === undefined && attachment === undefined && Object.keys(namespaces).length === 0;
}

/** Ends all containers at once, as the CRI asks ("forcibly terminated"), and the pause process. */
async function endProcesses(parts: Parts, record: SandboxRecord, signal: AbortSignal): Promise<void> {
  const own = [...parts.containers.values()].filter(({ sandboxId }) => sandboxId === record.id);
  const ended = await Promise.allSettled([
    ...own.map(({ id, state }) => (state.name === 'creating' ? takeDownContainer(parts, id) : stopContainer(parts, id, 0, signal))),
    endPause(parts, record, signal),
  ]);
  for (const result of ended) if (result.status === 'rejected') throw result.reason;
}

async function endPause(parts: Parts, record: SandboxRecord, signal: AbortSignal): Promise<void> {
  if (!record.hasPause) return;
  const workload: Workload = { id: record.id, handler: record.handler, cgroup: record.cgroup, processes: record.pause };
  await killWorkload(parts, workload, signal);
  await deleteWorkload(parts, workload, signal);
  if (record.pauseImage !== undefined) await parts.storage.unmountRootfs(`${parts.paths.bundle(record.id)}/rootfs`);
}

async function detachNetwork(parts: Parts, record: SandboxRecord, signal: AbortSignal): Promise<void> {
  if (record.attachment === undefined) return;
  await parts.cni.detach(record.attachment, { signal });
  // Remembered at once, so that a failure beside it does not repeat DEL; a repetition after a crash does no harm.
  parts.sandboxes.remember(record.id, ({ attachment: _, ...rest }) => rest);
}
