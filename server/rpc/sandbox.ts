import { orAborted } from '#base/abort.ts';
import { CriError, quote } from '#base/errors.ts';
import { type Init, type LinuxPodSandboxConfig, type PodSandbox, type PodSandboxFilter, PodSandboxState, type PodSandboxStatus } from '../../proto/cri.ts';
import type { Handler, StreamHandler } from '../call.ts';
import type { Creations } from '../creation.ts';
import { fingerprint } from '../fingerprint.ts';
import { userNamespaceOf } from '../oci/id-mapping.ts';
import { validatePodResources } from '../oci/resources.ts';
import { validateSandboxConfig } from '../oci/validate.ts';
import type { Parts } from '../parts.ts';
import { runSandbox } from '../sandbox/run.ts';
import { podName, type SandboxRecord, sandboxKey } from '../sandbox/sandbox.ts';
import { isStopped, stopSandbox } from '../sandbox/stop.ts';
import { removeSandbox } from '../sandbox/take-down.ts';
import { findSandbox, isVisible, matchesLabels, newestFirst, requireSandbox } from './lookup.ts';
import { sendPortions } from './portions.ts';
import { bundleSpec } from './verbose.ts';

export const runPodSandbox =
  (parts: Parts, creations: Creations): Handler<'RunPodSandbox'> =>
  async ({ config, runtime_handler }, { signal, stage }) => {
    validateSandboxConfig(config, parts.host);
    if (runtime_handler !== '' && !parts.runtimes.has(runtime_handler)) {
      throw new CriError('invalidArgument', `runtime_handler: ${quote(runtime_handler)} is not configured; known are ${[...parts.runtimes.keys()].join(', ')}`);
    }
    if (userNamespaceOf(config.linux?.security_context?.namespace_options) !== undefined) await requireUserNamespaces(parts, runtime_handler, signal);
    const request = { config, runtimeHandler: runtime_handler, fingerprint: fingerprint({ config, runtime_handler }) };
    const id = await creations.create(
      { ...sandboxKey(config), fingerprint: request.fingerprint, what: `pod ${podName(config)}` },
      (flight) => runSandbox(parts, request, flight),
      { signal, stage },
    );
    return { pod_sandbox_id: id };
  };

async function requireUserNamespaces({ config, features, tried, userNamespaceProblem }: Parts, asked: string, signal: AbortSignal): Promise<void> {
  const field = 'config.linux.security_context.namespace_options.userns_options.mode';
  const handler = asked === '' ? config.runtime.defaultRuntime : asked;
  await orAborted(tried(handler), signal);
  if (features.get(handler)?.userNamespaces !== true) {
    throw new CriError('failedPrecondition', `${field}: runtime handler ${quote(handler)} does not support user namespaces with idmapped mounts`);
  }
  if (userNamespaceProblem !== undefined) throw new CriError('failedPrecondition', `${field}: this node cannot do it: ${userNamespaceProblem}`);
}

/** api.proto, StopPodSandbox: what was stopped or reclaimed before is no error. */
export const stopPodSandbox =
  (parts: Parts): Handler<'StopPodSandbox'> =>
  async ({ pod_sandbox_id }, { signal, stage }) => {
    const sandbox = await findSandbox(parts, pod_sandbox_id);
    if (sandbox === undefined) return {};
    stage.name = `stopping pod ${podName(sandbox.config)}`;
    await stopSandbox(parts, sandbox.id, signal);
    return {};
  };

/** api.proto, RemovePodSandbox: containers that are still there are ended and removed; what is gone is no error. */
export const removePodSandbox =
  (parts: Parts): Handler<'RemovePodSandbox'> =>
  async ({ pod_sandbox_id }, { signal, stage }) => {
    const sandbox = await findSandbox(parts, pod_sandbox_id);
    if (sandbox === undefined) return {};
    stage.name = `removing pod ${podName(sandbox.config)}`;
    await removeSandbox(parts, sandbox.id, signal);
    parts.log.info({ sandboxId: sandbox.id, pod: podName(sandbox.config) }, 'Removed sandbox');
    return {};
  };

export const podSandboxStatus =
  (parts: Parts): Handler<'PodSandboxStatus'> =>
  async ({ pod_sandbox_id, verbose }) => {
    const sandbox = await requireSandbox(parts, pod_sandbox_id);
    return { status: sandboxStatus(sandbox), ...(verbose ? { info: await sandboxInfo(parts, sandbox) } : {}) };
  };

export const listPodSandbox =
  (parts: Parts): Handler<'ListPodSandbox'> =>
  async ({ filter }) => ({ items: selectSandboxes(parts, filter).map(listItem) });

/** api.proto, StreamPodSandboxes: the same list as it is now, in portions. */
export const streamPodSandboxes =
  (parts: Parts): StreamHandler<'StreamPodSandboxes'> =>
  async ({ filter }, _call, send) =>
    sendPortions(selectSandboxes(parts, filter), (portion) => ({ pod_sandboxes: portion.map(listItem) }), send);

function selectSandboxes(parts: Parts, filter: PodSandboxFilter | null): SandboxRecord[] {
  const state = filter?.state?.state;
  return newestFirst(
    [...parts.sandboxes.values()].filter(
      (sandbox) =>
        isVisible(parts, sandbox) &&
        sandbox.id.startsWith(filter?.id ?? '') &&
        (state === undefined || criState(sandbox) === state) &&
        matchesLabels(sandbox.config.labels, filter?.label_selector ?? {}),
    ),
  );
}

/**
 * The kubelet has set the pod's own cgroup, which is its and not ours, before it calls (KEP-1287, pod-level resize): what
 * is left to do is to remember. What is not sent stays.
 */
export const updatePodSandboxResources =
  (parts: Parts): Handler<'UpdatePodSandboxResources'> =>
  async ({ pod_sandbox_id, overhead, resources }, { stage }) => {
    const sandbox = await requireSandbox(parts, pod_sandbox_id);
    validatePodResources('overhead', overhead, parts.host);
    validatePodResources('resources', resources, parts.host);
    if (sandbox.state !== 'ready') throw new CriError('failedPrecondition', `pod sandbox ${sandbox.id} is not ready`);
    stage.name = `updating the resources of pod ${podName(sandbox.config)}`;
    await parts.sandboxes.update(sandbox.id, (old) => ({ ...old, config: withResources(old.config, { overhead, resources }) }), { lasting: true });
    return {};
  };

function withResources(
  config: SandboxRecord['config'],
  { overhead, resources }: Pick<LinuxPodSandboxConfig, 'overhead' | 'resources'>,
): SandboxRecord['config'] {
  const { linux } = config;
  const changed = { ...(overhead === null ? {} : { overhead }), ...(resources === null ? {} : { resources }) };
  const none = { cgroup_parent: '', security_context: null, sysctls: {}, overhead: null, resources: null };
  return { ...config, linux: { ...(linux ?? none), ...changed } };
}

function criState({ state }: SandboxRecord): PodSandboxState {
  return state === 'ready' ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

function listItem(sandbox: SandboxRecord): Init<PodSandbox> {
  const { id, config, createdAt, runtimeHandler } = sandbox;
  return {
    id,
    metadata: config.metadata,
    state: criState(sandbox),
    created_at: createdAt,
    labels: config.labels,
    annotations: config.annotations,
    runtime_handler: runtimeHandler,
  };
}

function sandboxStatus(sandbox: SandboxRecord): Init<PodSandboxStatus> {
  const { config, ips } = sandbox;
  const [ip = '', ...additional] = ips;
  return {
    ...listItem(sandbox),
    // A pod on the node's network has no address of its own; an empty one would make the kubelet recreate it.
    network: { ip, additional_ips: additional.map((address) => ({ ip: address })) },
    // The kubelet compares the network mode; leaving it out would recreate pods on the node's network for ever.
    linux: { namespaces: { options: config.linux?.security_context?.namespace_options ?? {} } },
  };
}

async function sandboxInfo(parts: Parts, sandbox: SandboxRecord): Promise<Record<string, string>> {
  const { config, pause, namespaces, attachment, handler, detach } = sandbox;
  const info = {
    pid: pause?.init.pid ?? 0,
    config,
    runtimeHandler: handler,
    namespaces,
    network:
      attachment === undefined
        ? null
        : {
            networks: attachment.networks.map(({ conf, ifName, result }) => ({ name: conf.name, cniVersion: conf.cniVersion, ifName, result: result ?? null })),
            pending: sandbox.state !== 'ready',
            ...(detach === undefined ? {} : { failing: detach }),
          },
    timeline: parts.timelines.get(sandbox.id)?.entries ?? [],
    stopped: isStopped(sandbox),
    runtimeSpec: await bundleSpec(parts.paths.bundle(sandbox.id)),
  };
  return { info: JSON.stringify(info) };
}
