import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError } from '#base/errors.ts';
import type { Parts } from '../parts.ts';
import { type ContainerRecord, processesOf } from './container.ts';
import { unmountImageVolumes } from './image-volumes.ts';
import { deleteWorkload, discardBundle, killWorkload, type Workload } from './workload.ts';

type ReleaseNeeds = Pick<Parts, 'containers' | 'storage' | 'runtimes' | 'cgroups' | 'deaths' | 'paths' | 'log' | 'signal'>;
type Needs = ReleaseNeeds & Pick<Parts, 'making' | 'locks' | 'doomed' | 'selinuxLevels'>;

export function workloadOf({ id, handler, cgroup, state }: ContainerRecord): Workload {
  return { id, handler, cgroup, processes: processesOf(state) };
}

/** How long taking one container down may take before it is left to the sweeper. */
const TAKE_DOWN_MS = 60_000;

/**
 * Takes a container down whatever its state: kills it, and removes all that its record names, the record last. Used to
 * remove a container as well as to undo a creation, which is why the record is written before anything else. Safe to
 * repeat after a failure: the record stays until all the rest is gone.
 */
export async function takeDownContainer(parts: Needs, id: string, { removeLog = false } = {}): Promise<void> {
  const making = parts.making.get(id);
  making?.abort(new CriError('failedPrecondition', `container ${id} was removed, or its pod stopped, while it was created`));
  await making?.done;
  const signal = AbortSignal.any([parts.signal, AbortSignal.timeout(TAKE_DOWN_MS)]);
  await using _lock = await parts.locks.acquire(id, signal);
  const record = parts.containers.get(id);
  if (record === undefined) return;
  await killWorkload(parts, workloadOf(record), signal);
  await releaseContainer(parts, record, signal);
  // A retry of the same attempt may write to the same file by now.
  const isShared = [...parts.containers.values()].some((other) => other.id !== id && other.logPath === record.logPath);
  if (removeLog && record.madeLog && !isShared) await rm(record.logPath, { force: true }); // a kubelet counts the attempt up because of it;
  await discardBundle(parts, id);
  await parts.containers.remove(id);
  parts.selinuxLevels.release(id);
  parts.deaths.announce(id);
  parts.doomed.delete(id);
}

/**
 * Gives back what a container holds beyond its life: processes, cgroup, runtime state and the mounted root file system.
 * What it wrote, its log and its record stay. The caller holds its lock.
 */
export async function releaseContainer(parts: ReleaseNeeds, record: ContainerRecord, signal: AbortSignal): Promise<void> {
  if (record.released === true) return;
  await deleteWorkload(parts, workloadOf(record), signal);
  await parts.storage.unmountRootfs(join(parts.paths.bundle(record.id), 'rootfs'));
  await unmountImageVolumes(parts.storage, parts.paths.bundle(record.id));
  parts.containers.remember(record.id, (old) => ({ ...old, released: true }));
}
