import { CriError, quote } from '#base/errors.ts';
import { type Container, type ContainerConfig, type ContainerFilter, ContainerState, type ContainerStatus, type Init } from '../../proto/cri.ts';
import type { Handler, StreamHandler } from '../call.ts';
import { type ContainerRecord, containerKey } from '../container/container.ts';
import { type ContainerRequest, createContainer as makeContainer } from '../container/create.ts';
import { findImageVolumes } from '../container/image-volumes.ts';
import { reopenLog as reopenContainerLogFile } from '../container/log.ts';
import { startContainer as begin } from '../container/start.ts';
import { stopContainer as end } from '../container/stop.ts';
import { takeDownContainer } from '../container/take-down.ts';
import { updateContainer } from '../container/update.ts';
import type { Creations } from '../creation.ts';
import { fingerprint } from '../fingerprint.ts';
import { checkMapSize, validateContainerConfig } from '../oci/validate.ts';
import type { Parts } from '../parts.ts';
import { podFiles, podHostname } from '../sandbox/files.ts';
import type { SandboxRecord } from '../sandbox/sandbox.ts';
import { findContainer, isVisible, matchesLabels, newestFirst, requireContainer, requireSandbox } from './lookup.ts';
import { sendPortions } from './portions.ts';
import { bundleSpec } from './verbose.ts';

/** The kubelet's annotation with the path of the termination log inside the container. */
const TERMINATION_LOG = 'io.kubernetes.container.terminationMessagePath';

export const createContainer =
  (parts: Parts, creations: Creations): Handler<'CreateContainer'> =>
  async ({ pod_sandbox_id, config }, { signal, stage }) => {
    const sandbox = await requireSandbox(parts, pod_sandbox_id);
    validateContainerConfig(config, sandbox.config, parts.host, parts.config.runtime.runtimes[sandbox.handler]?.containerMinMemoryBytes ?? 0);
    if (sandbox.state !== 'ready') throw new CriError('failedPrecondition', `pod sandbox ${sandbox.id} is not ready`);
    const image = parts.storage.find(config.image.image);
    if (image === undefined) throw new CriError('notFound', `config.image.image: ${quote(config.image.image)} is not on this node; pull it first`);
    const imageVolumes = findImageVolumes(parts.storage, config.mounts);
    const request: ContainerRequest = { config, fingerprint: containerFingerprint(config), sandbox, image, imageVolumes, pod: podFacts(parts, sandbox) };
    const id = await creations.create(
      { ...containerKey(sandbox.id, config), fingerprint: request.fingerprint, what: `container ${config.metadata.name} of pod sandbox ${sandbox.id}` },
      (flight) => makeContainer(parts, request, flight),
      { signal, stage },
    );
    return { container_id: id };
  };

/** Equal for a kubelet's retries: it makes a new random file for the termination log each time. */
export function containerFingerprint(config: ContainerConfig): string {
  const path = config.annotations[TERMINATION_LOG];
  const omitted = config.mounts.flatMap(({ container_path }, index) => (container_path === path ? [`mounts.${index}.host_path`] : []));
  return fingerprint(config, new Set(omitted));
}

function podFacts({ paths }: Parts, { id, config, namespaces }: SandboxRecord): ContainerRequest['pod'] {
  const files = podFiles(paths.bundle(id), namespaces);
  return {
    id,
    config,
    namespaces: { network: namespaces.net, ipc: namespaces.ipc, uts: namespaces.uts, user: namespaces.user },
    hostname: podHostname(config, namespaces),
    resolvConf: files.resolvConf,
    hostnameFile: files.hostname,
    shmDir: files.shm ?? '/dev/shm',
  };
}

export const startContainer =
  (parts: Parts): Handler<'StartContainer'> =>
  async ({ container_id }, { signal, stage }) => {
    const { id } = await requireContainer(parts, container_id);
    stage.name = `starting container ${id}`;
    await begin(parts, id, signal);
    return {};
  };

/** api.proto, StopContainer: what is not running, or gone, is no error. `timeout` is in seconds. */
export const stopContainer =
  (parts: Parts): Handler<'StopContainer'> =>
  async ({ container_id, timeout }, { signal, stage }) => {
    const container = await findContainer(parts, container_id);
    if (container === undefined) return {};
    stage.name = `stopping container ${container.id}`;
    await end(parts, container.id, Math.max(0, Number(timeout)) * 1000, signal);
    return {};
  };

/** api.proto, RemoveContainer: a running container is ended first; what is gone is no error. */
export const removeContainer =
  (parts: Parts): Handler<'RemoveContainer'> =>
  async ({ container_id }, { stage }) => {
    const container = await findContainer(parts, container_id);
    if (container === undefined) return {};
    stage.name = `removing container ${container.id}`;
    await takeDownContainer(parts, container.id);
    parts.log.info({ containerId: container.id, sandboxId: container.sandboxId }, 'Removed container');
    return {};
  };

export const listContainers =
  (parts: Parts): Handler<'ListContainers'> =>
  async ({ filter }) => ({ containers: selectContainers(parts, filter).map((item) => listItem(parts, item)) });

/** api.proto, StreamContainers: the same list as it is now, in portions. */
export const streamContainers =
  (parts: Parts): StreamHandler<'StreamContainers'> =>
  async ({ filter }, _call, send) =>
    sendPortions(selectContainers(parts, filter), (portion) => ({ containers: portion.map((item) => listItem(parts, item)) }), send);

function selectContainers(parts: Parts, filter: ContainerFilter | null): ContainerRecord[] {
  const state = filter?.state?.state;
  return newestFirst(
    [...parts.containers.values()].filter(
      (container) =>
        isVisible(parts, container) &&
        container.id.startsWith(filter?.id ?? '') &&
        container.sandboxId.startsWith(filter?.pod_sandbox_id ?? '') &&
        (state === undefined || criState(container) === state) &&
        matchesLabels(container.labels, filter?.label_selector ?? {}),
    ),
  );
}

export const containerStatus =
  (parts: Parts): Handler<'ContainerStatus'> =>
  async ({ container_id, verbose }) => {
    const container = await requireContainer(parts, container_id);
    return { status: statusOf(parts, container), ...(verbose ? { info: await containerInfo(parts, container) } : {}) };
  };

/** Annotations are for plug-ins of the runtime, of which there are none: no limit that Berth knows comes by them. */
export const updateContainerResources =
  (parts: Parts): Handler<'UpdateContainerResources'> =>
  async ({ container_id, linux, windows, annotations }, { signal, stage }) => {
    const container = await requireContainer(parts, container_id);
    if (windows !== null) throw new CriError('invalidArgument', 'windows: this is no Windows host');
    checkMapSize('annotations', annotations);
    if (linux === null) return {};
    stage.name = `updating the resources of container ${container.id}`;
    await updateContainer(parts, container.id, linux, signal);
    return {};
  };

/** api.proto, ReopenContainerLog: nothing is created when it fails. */
export const reopenContainerLog =
  (parts: Parts): Handler<'ReopenContainerLog'> =>
  async ({ container_id }, { signal, stage }) => {
    const container = await requireContainer(parts, container_id);
    stage.name = `reopening the log of container ${container.id}`;
    await reopenContainerLogFile(parts, container, signal);
    return {};
  };

function criState({ state }: ContainerRecord): ContainerState {
  if (state.name === 'created') return ContainerState.CONTAINER_CREATED;
  if (state.name === 'running') return ContainerState.CONTAINER_RUNNING;
  return state.name === 'exited' ? ContainerState.CONTAINER_EXITED : ContainerState.CONTAINER_UNKNOWN;
}

/** What people know the image by: as the pod says it, else one of its names, else its id. */
function shownImage({ storage }: Parts, { image, imageId }: ContainerRecord): ContainerRecord['image'] {
  const stored = storage.find(imageId);
  const isId = stored?.id.includes(image.image) === true;
  const known = isId ? (stored?.repoTags[0] ?? stored?.repoDigests[0] ?? imageId) : image.image;
  return { ...image, image: image.user_specified_image || known };
}

function listItem(parts: Parts, container: ContainerRecord): Init<Container> {
  const { id, sandboxId, metadata, imageId, imageRef, createdAt, labels, annotations } = container;
  return {
    id,
    pod_sandbox_id: sandboxId,
    metadata,
    image: shownImage(parts, container),
    image_ref: imageRef,
    image_id: imageId,
    state: criState(container),
    created_at: createdAt,
    labels,
    annotations,
  };
}

function statusOf(parts: Parts, container: ContainerRecord): Init<ContainerStatus> {
  const { state, user, resources, mounts, logPath, stopSignal } = container;
  const { pod_sandbox_id: _, ...common } = listItem(parts, container);
  return {
    ...common,
    started_at: state.name === 'running' || state.name === 'exited' ? state.startedAt : '0',
    ...(state.name === 'exited' ? { finished_at: state.finishedAt, exit_code: state.exitCode, reason: state.reason, message: state.message } : {}),
    mounts,
    log_path: logPath,
    ...(resources === null ? {} : { resources: { linux: resources } }),
    user: { linux: { uid: String(user.uid), gid: String(user.gid), supplemental_groups: user.supplementalGroups.map(String) } },
    stop_signal: stopSignal,
  };
}

async function containerInfo(parts: Parts, container: ContainerRecord): Promise<Record<string, string>> {
  const { id, sandboxId, state, privileged, handler } = container;
  const info = {
    sandboxID: sandboxId,
    pid: state.name === 'created' || state.name === 'running' ? state.init.pid : 0,
    privileged,
    runtimeHandler: handler,
    runtimeSpec: await bundleSpec(parts.paths.bundle(id)),
  };
  return { info: JSON.stringify(info) };
}
