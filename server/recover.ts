import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '#base/atomic-file.ts';
import { describeError, isErrno } from '#base/errors.ts';
import { isAlive } from '#base/process.ts';
import { endOrphanedPlugins } from '../cni/cni.ts';
import { endMonitor } from '../conmon/conmon.ts';
import { type ContainerRecord, processesOf } from './container/container.ts';
import { undoContainer } from './container/create.ts';
import { noteEnd } from './container/end.ts';
import { endLeftExecs } from './container/exec-scratch.ts';
import { executingContainer } from './container/exec-target.ts';
import { unmountImageVolumes } from './container/image-volumes.ts';
import type { Parts } from './parts.ts';
import { type DamagedRecord, discard } from './records.ts';
import { isPinned, unpinNamespaces } from './sandbox/namespaces.ts';
import { noteRun } from './sandbox/network.ts';
import { podName, type SandboxRecord } from './sandbox/sandbox.ts';
import { takeDownSandbox } from './sandbox/take-down.ts';

/** How long an OCI runtime may take to tell what it knows of a container. */
const RUNTIME_MS = 5_000;

/**
 * Brings memory in line with the world after a start. It rests on three facts: a record is written before what it names
 * and goes after it; a monitor lives on and leaves an exit file; a reboot ends every process and mount, and is told by
 * the kernel's boot id.
 */
export async function recover(
  parts: Parts,
  damaged: { readonly sandboxes: readonly DamagedRecord[]; readonly containers: readonly DamagedRecord[] },
): Promise<void> {
  const { rebooted, noted } = await noticeReboot(parts);
  const known = new Set([...parts.sandboxes.values()].map(({ id }) => id as string));
  for (const attachment of await parts.cni.lost(known)) parts.lost.set(attachment.pod.id, { attachment });
  await clearDamaged(parts, damaged);
  for (const { id, config, timeline, attachment } of parts.sandboxes.values()) {
    parts.timelines.begin(id, podName(config), timeline);
    if (attachment !== undefined) parts.hostPorts.claim(attachment.pod);
  }
  for (const { id, selinuxLevel } of [...parts.sandboxes.values(), ...parts.containers.values()])
    if (selinuxLevel !== undefined && selinuxLevel !== '') parts.selinuxLevels.hold(id, selinuxLevel);
  for (const { attachment } of parts.lost.values()) parts.hostPorts.claim(attachment.pod);
  for (const { cgroupParent, madeCgroupFrom } of parts.sandboxes.values()) if (madeCgroupFrom !== undefined) parts.cgroups.adopt(cgroupParent, madeCgroupFrom);
  // What a dead daemon was executing goes on without it.
  const attaching = [...parts.sandboxes.values()].filter(({ attachment }) => attachment !== undefined);
  await endOrphanedPlugins(new Set([...attaching.map(({ id }) => id), ...parts.lost.keys()]));
  // Containers first: a pod's state does not depend on theirs, but undoing a pod takes its containers along.
  await Promise.all([...parts.containers.values()].map(({ id }) => alone(parts, id, () => recoverContainer(parts, id, rebooted))));
  await Promise.all([...parts.sandboxes.values()].map(({ id }) => alone(parts, id, () => recoverSandbox(parts, id, rebooted))));
  await sweepBundles(parts);
  for (const name of await readdir(parts.paths.execs)) await rm(join(parts.paths.execs, name), { recursive: true, force: true });
  parts.background('check pod networks', () => checkNetworks(parts));
  await noted();
  parts.log.info({ count: parts.sandboxes.size, reason: rebooted ? 'reboot' : 'restart' }, 'Recovered sandboxes');
}

/** One object that cannot be recovered must not keep the daemon from serving the others. */
async function alone({ log }: Parts, id: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (err) {
    log.error({ err, containerId: id }, 'Could not recover object');
  }
}

/** Whether the machine has started anew since the last time; `noted()` when that has been dealt with. */
async function noticeReboot({ config }: Parts): Promise<{ readonly rebooted: boolean; readonly noted: () => Promise<void> }> {
  const path = join(config.root, 'boot-id');
  const now = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const before = await readFile(path, 'utf8').catch((err: unknown) => {
    if (isErrno(err, 'ENOENT')) return '';
    throw err;
  });
  return { rebooted: before !== '' && before !== now, noted: async () => (before === now ? undefined : writeFileAtomic(path, now)) };
}

async function recoverContainer(parts: Parts, id: string, rebooted: boolean): Promise<void> {
  const record = parts.containers.get(id);
  if (record === undefined) return;
  if (record.state.name === 'creating' || isUndone(record)) {
    // Whoever asked for it will ask again. Its processes are told by what the monitor wrote into the bundle.
    parts.doomed.add(id);
    await endMonitor(parts.paths.bundle(id));
    parts.background('undo container', () => undoContainer(parts, id, 'the daemon died while it was created'));
    return;
  }
  const processes = processesOf(record.state);
  if (processes === undefined) return;
  if (!rebooted && isAlive(processes.init)) {
    if (record.state.name === 'created') await noteMissedStart(parts, record);
    const executing = await executingContainer(parts, record);
    await endLeftExecs({
      bundle: parts.paths.bundle(id),
      init: processes.init,
      cgroupProcs: () => parts.cgroups.procs(record.cgroup),
      findCgroup: (name) => parts.cgroups.execs.find(executing, name),
    });
    return;
  }
  await noteEnd(parts, id);
  if (processesOf(parts.containers.get(id)?.state ?? record.state) === undefined) return;
  // While its monitor lives an exit file may still come: the sweeper waits for it.
  if (!rebooted && isAlive(processes.monitor)) return;
  const message = rebooted ? 'ended by a reboot of the node' : 'ended while berth was not running, without leaving an exit code';
  await noteEnd(parts, id, { exitCode: 255, reason: 'Unknown', message });
}

/** The daemon may have died between the runtime's start and the record of it. */
async function noteMissedStart(parts: Parts, { id, handler }: ContainerRecord): Promise<void> {
  const state = await parts.runtimes.get(handler)?.state(id, { signal: AbortSignal.any([parts.signal, AbortSignal.timeout(RUNTIME_MS)]) });
  if (state?.status !== 'running') return;
  const startedAt = parts.now();
  await parts.containers.update(id, (old) => (old.state.name === 'created' ? { ...old, state: { ...old.state, name: 'running', startedAt } } : undefined));
}

/** It was being undone: nobody was told of it, and it does not wait for a retry either. */
function isUndone({ claimed, unclaimedSince }: { readonly claimed: boolean; readonly unclaimedSince?: number }): boolean {
  return !claimed && unclaimedSince === undefined;
}

async function recoverSandbox(parts: Parts, id: string, rebooted: boolean): Promise<void> {
  const record = parts.sandboxes.get(id);
  if (record === undefined) return;
  if (record.state === 'creating' || isUndone(record)) {
    parts.doomed.add(id);
    await endMonitor(parts.paths.bundle(id));
    // Not awaited: CNI DEL may take long or hang, and nobody waits for a pod that nobody knows.
    parts.background('undo sandbox', () => takeDownSandbox(parts, id, { reason: 'the daemon died while it was made' }));
    return;
  }
  if (record.state !== 'ready') return;
  const held = record.hasPause ? record.pause !== undefined && isAlive(record.pause.init) : true;
  if (!rebooted && held && isPinned(record.namespaces)) return;
  await parts.sandboxes.update(id, (old) => ({ ...old, state: 'notReady' }));
  parts.log.warn({ sandboxId: id, reason: rebooted ? 'reboot' : 'pause process or namespaces gone' }, 'Lost sandbox');
}

/**
 * Asks the plugins, one pod after the other, whether the networks of the pods that live on are still whole. Nothing is
 * done about one that is not: its containers may serve all the same, and only the kubelet can make the pod anew.
 */
async function checkNetworks(parts: Parts): Promise<void> {
  const ready = ({ state, attachment }: SandboxRecord): boolean => state === 'ready' && attachment !== undefined;
  for (const { id } of [...parts.sandboxes.values()].filter(ready)) {
    if (parts.locks.isBusy(id)) continue;
    await using _lock = await parts.locks.acquire(id, parts.signal);
    const record = parts.sandboxes.get(id);
    if (record === undefined || !ready(record) || record.attachment === undefined) continue;
    try {
      await parts.cni.check(record.attachment, { signal: parts.signal, onRun: noteRun(parts, id) });
    } catch (err) {
      parts.signal.throwIfAborted();
      // Not a warning: portmap up to 1.6 misses rules of a family that the pod does not have.
      parts.log.info({ sandboxId: id, pod: podName(record.config), reason: describeError(err) }, 'Plugin missed something in network of pod');
    }
  }
}

/** An object whose record cannot be read costs only itself: what its id tells of is removed, the rest goes to the trash. */
async function clearDamaged(parts: Parts, { sandboxes, containers }: Parameters<typeof recover>[1]): Promise<void> {
  const { root, runtime } = parts.config;
  for (const [kind, list] of [
    ['sandboxes', sandboxes],
    ['containers', containers],
  ] as const) {
    for (const { id, err } of list) {
      parts.log.error({ err, reason: kind, containerId: id }, 'Discarded damaged record');
      const at = (name: string): string => join(runtime.namespacesDir, name, `berth-${id}`);
      // A network namespace goes after its DEL.
      await unpinNamespaces({ ...(parts.lost.has(id) ? {} : { net: at('netns') }), ipc: at('ipcns'), uts: at('utsns'), user: at('userns') });
      await discard(join(root, kind, id), join(parts.paths.trash, `${id}.${process.pid}.damaged`));
    }
  }
}

/** Bundles whose object is unknown: their processes are killed, their mounts and files removed. */
async function sweepBundles(parts: Parts): Promise<void> {
  for (const id of await readdir(parts.paths.bundle(''))) {
    if (parts.sandboxes.get(id) !== undefined || parts.containers.get(id) !== undefined) continue;
    await alone(parts, id, () => removeUnknown(parts, id));
  }
}

async function removeUnknown(parts: Parts, id: string): Promise<void> {
  await endMonitor(parts.paths.bundle(id));
  for (const runtime of parts.runtimes.values()) {
    if ((await runtime.state(id, { signal: parts.signal })) !== undefined) await runtime.delete(id, { force: true, signal: parts.signal });
  }
  await parts.cgroups.execs.remove(id);
  for (const mount of ['rootfs', 'shm']) await parts.storage.unmountRootfs(join(parts.paths.bundle(id), mount));
  await unmountImageVolumes(parts.storage, parts.paths.bundle(id));
  await rm(parts.paths.bundle(id), { recursive: true, force: true });
  await rm(join(parts.paths.exits, id), { force: true });
  parts.log.warn({ containerId: id }, 'Removed bundle of an unknown object');
}
