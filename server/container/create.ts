import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CriError } from '#base/errors.ts';
import type { ObjectId } from '#base/id.ts';
import { isAlive, type ProcessIdentity } from '#base/process.ts';
import { startMonitor } from '../../conmon/conmon.ts';
import { type Mount, NamespaceMode } from '../../proto/cri.ts';
import type { Image } from '../../storage/storage.ts';
import type { Flight } from '../creation.ts';
import { containerCgroup } from '../oci/cgroup-path.ts';
import type { ContainerSpecInput, ResolvedContainer, SandboxFacts } from '../oci/container-input.ts';
import { resolveContainer } from '../oci/container-resolve.ts';
import { buildContainerSpec } from '../oci/container-spec.ts';
import { injectHooks } from '../oci/hooks.ts';
import type { ContainerLabels } from '../oci/selinux-label.ts';
import { levelOf } from '../oci/selinux-pod.ts';
import { criSignal, stopSignalNumber } from '../oci/signal.ts';
import type { ValidContainerConfig } from '../oci/validate.ts';
import { type Parts, timed } from '../parts.ts';
import type { SandboxRecord } from '../sandbox/sandbox.ts';
import type { ContainerRecord } from './container.ts';
import { type ImageVolumeRequest, mountImageVolumes } from './image-volumes.ts';
import { findLabels, labelVolumes, passedOverLabels } from './labels.ts';
import { containerLogPath, prepareLogPath } from './log.ts';
import { giveStreams, streamOwner } from './streams.ts';
import { takeDownContainer } from './take-down.ts';

type Needs = Parts;

const TARGET_FIELD = 'config.linux.security_context.namespace_options.target_id';

export interface ContainerRequest {
  readonly config: ValidContainerConfig;
  readonly fingerprint: string;
  readonly sandbox: SandboxRecord;
  readonly image: Image;
  /** Those of the request's mounts that show an image. */
  readonly imageVolumes: readonly ImageVolumeRequest[];
  /** The pod's side of the container; without what depends on the request. */
  readonly pod: Omit<SandboxFacts, 'namespaces'> & { readonly namespaces: Omit<SandboxFacts['namespaces'], 'pid'> };
}

/**
 * Makes a container, not started yet: its root file system, its OCI spec, and its monitor, which has the OCI runtime
 * create it. As with pods, the record names everything first and the way back is to take down what it names.
 */
export async function createContainer(parts: Needs, request: ContainerRequest, flight: Flight): Promise<ObjectId> {
  const { config, sandbox, image } = request;
  const labels = findLabels(parts, request);
  if (labels === undefined) passedOverLabels(parts, request);
  const record = await planContainer(parts, request, labels);
  const { id } = record;
  const bundle = parts.paths.bundle(id);
  const of = { podId: record.sandboxId, of: `container ${config.metadata?.name}` };
  const stopped = new AbortController();
  const signal = AbortSignal.any([flight.signal, stopped.signal]);
  const over = Promise.withResolvers<void>();
  parts.making.set(id, { abort: (reason) => stopped.abort(reason), done: over.promise });
  try {
    flight.stage('writing the record of the container');
    await parts.containers.insert(record);
    if (record.selinuxLevel !== undefined) parts.selinuxLevels.hold(id, record.selinuxLevel);
    flight.stage(`mounting the image ${image.id}`);
    const rootfs = join(bundle, 'rootfs');
    await timed(
      parts,
      'container_rootfs',
      async () => {
        mkdirSync(rootfs, { recursive: true, mode: 0o711 });
        await parts.storage.createRootfs(parts.containers.directory(id));
        await parts.storage.mountRootfs(image.id, parts.containers.directory(id), rootfs, { userns: sandbox.namespaces.user, label: labels?.mount });
      },
      of,
    );
    signal.throwIfAborted();
    if (request.imageVolumes.length > 0) flight.stage(`mounting the image volumes ${request.imageVolumes.map((volume) => volume.image.id).join(', ')}`);
    const imageSources = await mountImageVolumes(parts.storage, request.imageVolumes, { bundle, userns: sandbox.namespaces.user, label: labels?.mount });
    signal.throwIfAborted();
    flight.stage('writing the OCI spec');
    const holder = pidNamespaceHolder(parts, request);
    const { resolved } = await timed(parts, 'container_spec', () => writeSpec(parts, request, { record, rootfs, bundle, imageSources, labels, holder }), of);
    if (labels !== undefined && config.mounts.some((mount) => mount.selinux_relabel)) {
      flight.stage('giving the volumes their SELinux label');
      await labelVolumes(parts, config.mounts, { labels, resolved: resolved.mounts, signal });
    }
    signal.throwIfAborted();
    flight.stage('creating the container by the OCI runtime');
    const processes = await timed(parts, 'container_create', () => monitor(parts, record, bundle, signal), of);
    checkHolder(holder);
    const owner = streamOwner(sandbox.config, resolved.user);
    if (owner !== undefined) giveStreams(processes.init.pid, owner);
    flight.stage('writing the record of the container');
    signal.throwIfAborted();
    const claimed = flight.isWanted();
    const created = await parts.containers.update(id, (old) => ({
      ...old,
      state: { name: 'created', ...processes },
      claimed,
      ...(claimed ? {} : { unclaimedSince: Date.now() }),
      mounts: statusMounts(request, resolved),
      user: {
        uid: resolved.user.uid,
        gid: resolved.user.gid,
        supplementalGroups: [...new Set([...resolved.user.additionalGids, ...resolved.cdi.additionalGids])],
      },
    }));
    const pod = parts.sandboxes.get(sandbox.id);
    if (created === undefined || pod?.state !== 'ready')
      throw new CriError('failedPrecondition', `pod sandbox ${sandbox.id} was stopped while container ${config.metadata.name} was created`);
    parts.log.info({ containerId: id, sandboxId: sandbox.id, image: record.imageRef }, 'Created container');
    return id;
  } catch (err) {
    flight.stage('undoing after a failure');
    parts.making.delete(id); // the way down is open
    await undoContainer(parts, id, 'its creation failed');
    throw err;
  } finally {
    parts.making.delete(id);
    over.resolve();
  }
}

/** Undoes a container that nobody may see, with the log that it made. Never rejects: the sweeper tries again. */
export async function undoContainer(parts: Parts, id: string, reason: string): Promise<void> {
  if (parts.containers.get(id) === undefined) return; // it was never written
  parts.doomed.add(id);
  try {
    await takeDownContainer(parts, id, { removeLog: true });
    parts.log.info({ containerId: id, reason }, 'Undid container');
  } catch (err) {
    parts.log.warn({ err, containerId: id, reason }, 'Could not undo container yet');
  }
}

async function planContainer(
  parts: Needs,
  { config, fingerprint, sandbox, image, imageVolumes }: ContainerRequest,
  labels: ContainerLabels | undefined,
): Promise<ContainerRecord> {
  const id = parts.newId();
  const stopSignal = stopSignalNumber(config.stop_signal, image.config.stopSignal);
  const level = levelOf(labels?.mount ?? '');
  const logPath = containerLogPath(sandbox.config.log_directory, config.log_path);
  return {
    id,
    sandboxId: sandbox.id,
    fingerprint,
    metadata: config.metadata,
    labels: config.labels,
    annotations: config.annotations,
    handler: sandbox.handler,
    createdAt: parts.now(),
    state: { name: 'creating' },
    claimed: false,
    image: config.image,
    imageId: image.id,
    imageRef: imageRefOf(image),
    ...(imageVolumes.length === 0 ? {} : { imageVolumes: imageVolumes.map((volume) => volume.image.id) }),
    logPath,
    madeLog: logPath !== '' && (await prepareLogPath(sandbox.config.log_directory, logPath)),
    terminal: config.tty,
    stdin: config.stdin,
    stdinOnce: config.stdin_once,
    stopSignal: criSignal(stopSignal),
    stopSignalNumber: stopSignal,
    mounts: [],
    resources: config.linux?.resources ?? null,
    user: { uid: 0, gid: 0, supplementalGroups: [] },
    privileged: config.linux?.security_context?.privileged === true,
    ...(level === '' || level === sandbox.selinuxLevel ? {} : { selinuxLevel: level }),
    cgroup: containerCgroup(parts.config.runtime.cgroupManager, sandbox.config.linux?.cgroup_parent ?? '', id).path,
  };
}

/** What a container's OCI spec is made for and from. */
interface SpecSurroundings {
  readonly record: ContainerRecord;
  readonly rootfs: string;
  readonly bundle: string;
  readonly imageSources: ReadonlyMap<number, string>;
  readonly labels: ContainerLabels | undefined;
  readonly holder: PidNamespaceHolder | undefined;
}

async function writeSpec(
  parts: Needs,
  request: ContainerRequest,
  { record, rootfs, bundle, imageSources, labels, holder }: SpecSurroundings,
): Promise<{ readonly resolved: ResolvedContainer }> {
  const { config, sandbox, image, pod } = request;
  const { runtime } = parts.config;
  if (config.mounts.some(({ recursive_read_only, uidMappings }) => recursive_read_only || uidMappings.length > 0)) await parts.tried(record.handler);
  const input: ContainerSpecInput = {
    id: record.id,
    config,
    sandbox: { ...pod, namespaces: { ...pod.namespaces, ...(holder === undefined ? {} : { pid: `/proc/${holder.init.pid}/ns/pid` }) } },
    image: image.config,
    rootfs,
    cgroupsPath: containerCgroup(runtime.cgroupManager, sandbox.config.linux?.cgroup_parent ?? '', record.id).cgroupsPath,
    host: parts.host,
    defaults: runtime,
    allowedAnnotations: runtime.runtimes[record.handler]?.allowedAnnotations ?? [],
    privilegedWithoutHostDevices: runtime.runtimes[record.handler]?.privilegedWithoutHostDevices ?? false,
    features: {
      recursiveReadOnly: parts.features.get(record.handler)?.recursiveReadOnlyMounts ?? false,
      idmapped: parts.features.get(record.handler)?.idmappedMounts ?? false,
      netDevices: parts.features.get(record.handler)?.netDevices ?? false,
      ownRoots: [parts.config.root, parts.config.runroot],
    },
    imageSources,
    deviceOwnership: runtime.deviceOwnershipFromSecurityContext,
    cdiSpecDirs: runtime.cdiSpecDirs,
    labels,
  };
  const [resolved, hooks] = await Promise.all([resolveContainer(input), parts.hooks.read()]);
  const { spec: built, droppedCapabilities, clampedOomScoreAdj } = buildContainerSpec(input, resolved);
  if (droppedCapabilities.length > 0)
    parts.once('capabilities', { reason: droppedCapabilities.join(' ') }, 'Dropped capabilities that the daemon does not have itself');
  if (clampedOomScoreAdj !== undefined)
    parts.once(
      'oomScoreAdj',
      { reason: `asked ${clampedOomScoreAdj.asked}, given ${clampedOomScoreAdj.given}` },
      'Clamped oom_score_adj, since the daemon lacks CAP_SYS_RESOURCE',
    );
  const spec = injectHooks(built, hooks, {
    annotations: { ...sandbox.config.annotations, ...config.annotations },
    command: built.process.args[0] ?? '',
    hasBindMounts: config.mounts.length > 0,
  });
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec), { mode: 0o600 }); // on a tmpfs: microseconds
  return { resolved };
}

/** The process in whose PID namespace a container is to live. */
interface PidNamespaceHolder {
  readonly init: ProcessIdentity;
  /** For messages. */
  readonly what: string;
}

/** The pod's pause process, or another container of it (ephemeral containers); `undefined` where nothing is to be joined. */
function pidNamespaceHolder(parts: Needs, { config, sandbox }: ContainerRequest): PidNamespaceHolder | undefined {
  const options = config.linux?.security_context?.namespace_options;
  if (options?.pid === NamespaceMode.TARGET) {
    const target = parts.containers.get(options.target_id);
    if (target === undefined || target.sandboxId !== sandbox.id)
      throw new CriError('invalidArgument', `${TARGET_FIELD}: "${options.target_id}" is no container of this pod`);
    if (target.state.name !== 'running')
      throw new CriError('failedPrecondition', `${TARGET_FIELD}: container ${target.id} is ${target.state.name}, not running`);
    return { init: target.state.init, what: `${TARGET_FIELD}: container ${target.id}` };
  }
  // POD is also what an absent message means.
  if (options !== undefined && options !== null && options.pid !== NamespaceMode.POD) return undefined;
  return sandbox.pause === undefined ? undefined : { init: sandbox.pause.init, what: `the pause process of pod sandbox ${sandbox.id}` };
}

/** The OCI runtime was given a pid, and may have met a later process with it: then the namespace is a stranger's, or the node's. */
function checkHolder(holder: PidNamespaceHolder | undefined): void {
  if (holder !== undefined && !isAlive(holder.init)) throw new CriError('failedPrecondition', `${holder.what} has ended, whose PID namespace was to be joined`);
}

function monitor(parts: Needs, record: ContainerRecord, bundle: string, signal: AbortSignal): ReturnType<typeof startMonitor> {
  const { runtime } = parts.config;
  return startMonitor(
    {
      id: record.id,
      bundle,
      runtimePath: runtime.runtimes[record.handler]?.runtimePath ?? '',
      runtimeRoot: parts.config.runtime.runtimes[record.handler]?.runtimeRoot ?? '',
      systemdCgroup: parts.config.runtime.cgroupManager === 'systemd',
      conmonPath: runtime.conmon,
      logPath: record.logPath === '' ? undefined : record.logPath,
      exitDir: parts.paths.exits,
      terminal: record.terminal,
      stdin: record.stdin,
      stdinOnce: record.stdinOnce,
      socketDir: parts.paths.execs,
      place: (pid) => parts.monitors.place(pid),
    },
    { signal },
  );
}

/** The request's mounts with the sources and images that were really mounted. */
function statusMounts({ config, imageVolumes }: ContainerRequest, { mounts: resolved }: ResolvedContainer): Mount[] {
  const images = new Map(imageVolumes.map(({ index, image }) => [index, image]));
  return config.mounts.map((mount, index) => {
    const image = images.get(index);
    if (image === undefined || mount.image === null) return { ...mount, host_path: resolved[index]?.source ?? mount.host_path };
    return { ...mount, readonly: true, image: { ...mount.image, image_ref: imageRefOf(image) } };
  });
}

/** `repository@digest`, or the id where the image has no digest. */
function imageRefOf({ repoDigests, id }: Image): string {
  return repoDigests[0] ?? id;
}
