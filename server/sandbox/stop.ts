import { isAbort } from '#base/abort.ts';
import { CriError, firstFailure } from '#base/errors.ts';
import { stopContainer } from '../container/stop.ts';
import { takeDownContainer } from '../container/take-down.ts';
import { deleteWorkload, killWorkload, type Workload } from '../container/workload.ts';
import type { Parts } from '../parts.ts';
import { podFiles, removePodFiles } from './files.ts';
import { unpinNamespaces } from './namespaces.ts';
import { detachNetwork } from './network.ts';
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
  const begin = (old: SandboxRecord): SandboxRecord => ({ ...old, state: 'notReady', stop: 'asked' });
  parts.sandboxes.remember(id, begin);
  parts.streams.podStopped(id);
  // After a crash the dead pause process says the same; a pod without one has nobody to say so.
  if (!record.hasPause) await parts.sandboxes.update(id, begin);
  const limit = AbortSignal.timeout(STOP_MS);
  const signal = AbortSignal.any([parts.signal, limit]);
  const results = await Promise.allSettled([endProcesses(parts, record, signal), detachNetwork(parts, record, signal)]);
  const failures = results.filter((result) => result.status === 'rejected').map((result) => result.reason);
  if (failures.length === 0) {
    await removePodFiles(podFiles(parts.paths.bundle(id), record.namespaces));
    await unpinNamespaces(record.namespaces);
    await parts.sandboxes.update(
      id,
      (old) => {
        const { pause: _pause, attachment: _attachment, detach: _detach, ...rest } = old;
        return { ...rest, state: 'notReady', stop: 'done', namespaces: {}, ips: [] };
      },
      { lasting: true },
    );
    parts.log.info({ sandboxId: id, pod: podName(record.config) }, 'Stopped sandbox');
    return;
  }
  await parts.sandboxes.update(id, begin);
  const failure = firstFailure(failures[0]);
  if (limit.aborted && isAbort(failure))
    throw new CriError('deadlineExceeded', `stop pod ${podName(record.config)}: not done within ${STOP_MS / 1000} s`, { cause: failure });
  throw failure;
}

/** Nothing of the pod is left but its record and its containers' remains. */
export function isStopped({ stop }: SandboxRecord): boolean {
  return stop === 'done';
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
  parts.deaths.announce(record.id);
  if (record.pauseImage !== undefined) await parts.storage.unmountRootfs(`${parts.paths.bundle(record.id)}/rootfs`);
}
