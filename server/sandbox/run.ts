import { mkdirSync } from 'node:fs';
import { CriError, describeError } from '#base/errors.ts';
import type { ObjectId } from '#base/id.ts';
import type { Attachment } from '../../cni/cni.ts';
import { NamespaceMode, type PodSandboxConfig, Protocol } from '../../proto/cri.ts';
import type { Flight } from '../creation.ts';
import { containerCgroup } from '../oci/cgroup-path.ts';
import { userNamespaceOf } from '../oci/id-mapping.ts';
import { loadSeccompProfile, seccompChoice } from '../oci/seccomp.ts';
import { takePodLevel } from '../oci/selinux-pod.ts';
import { sysctlNamespace, translateSysctls } from '../oci/sysctl.ts';
import type { ValidSandboxConfig } from '../oci/validate.ts';
import { type Parts, timed } from '../parts.ts';
import { makePodFiles, podFiles, podHostname } from './files.ts';
import { sandboxLabels } from './labels.ts';
import { pinNamespaces, planNamespaces } from './namespaces.ts';
import { attachNetwork, claimHostPorts } from './network.ts';
import { startPause } from './pause.ts';
import { podName, type SandboxRecord } from './sandbox.ts';
import { takeDownSandbox } from './take-down.ts';

export interface SandboxRequest {
  readonly config: ValidSandboxConfig;
  /** As asked for; empty for the default. */
  readonly runtimeHandler: string;
  readonly fingerprint: string;
}

/**
 * Makes a pod sandbox: pinned namespaces, then its network and its pause process side by side, since neither needs the
 * other. The record names everything before it is made, so that whatever fails, and whenever the daemon dies, the way
 * back is to take down what the record names.
 */
export async function runSandbox(parts: Parts, request: SandboxRequest, flight: Flight): Promise<ObjectId> {
  const id = parts.newId();
  const began = Date.now();
  parts.timelines.begin(id, podName(request.config));
  const record = await planSandbox(parts, id, request, flight).catch((err: unknown) => {
    parts.timelines.add(id, { at: began, step: 'planning', ms: Date.now() - began, error: describeError(err) });
    throw err;
  });
  const { config } = record;
  try {
    if (record.attachment !== undefined) claimHostPorts(parts, record.attachment);
    flight.stage('writing the record of the pod');
    await parts.sandboxes.insert(record);
    flight.stage('making the namespaces');
    await timed(parts, 'namespaces', () => makeSurroundings(parts, record, flight.signal), { podId: id });
    const [network, pause] = await sideBySide(flight, [
      (signal, stage) =>
        record.attachment === undefined ? undefined : timed(parts, 'cni_add', () => attachNetwork(parts, record, { signal, stage }), { podId: id }),
      (signal, stage) => (record.hasPause ? startPause(parts, record, { signal, stage }) : undefined),
    ]);
    flight.stage('writing the record of the pod');
    flight.signal.throwIfAborted();
    const claimed = flight.isWanted();
    parts.timelines.add(id, { at: began, step: 'RunPodSandbox', ms: Date.now() - began });
    const timeline = parts.timelines.get(id)?.entries ?? [];
    const ready = await parts.sandboxes.update(id, (old) => ({
      ...old,
      state: 'ready',
      claimed,
      ...(claimed ? {} : { unclaimedSince: Date.now() }),
      ...(network === undefined ? {} : { attachment: network.attachment, ips: network.ips }),
      ...(pause === undefined ? {} : { pause }),
      timeline,
    }));
    if (ready === undefined || parts.doomed.has(id)) throw new CriError('cancelled', `pod ${podName(config)} was removed while it was made`);
    parts.log.info({ sandboxId: id, pod: podName(config), handler: record.handler }, 'Created sandbox');
    return id;
  } catch (err) {
    parts.timelines.add(id, { at: began, step: 'RunPodSandbox', ms: Date.now() - began, error: describeError(err) });
    flight.stage(`undoing after a failure: ${flight.signal.aborted ? 'cancelled' : 'failed'}`);
    await takeDownSandbox(parts, id, { reason: 'its creation failed' });
    if (parts.sandboxes.get(id) === undefined) {
      // It was never written, or is gone.
      parts.hostPorts.release(id);
      parts.selinuxLevels.release(id);
    }
    throw err;
  }
}

async function planSandbox(parts: Parts, id: ObjectId, { config, runtimeHandler, fingerprint }: SandboxRequest, flight: Flight): Promise<SandboxRecord> {
  const { runtime, image } = parts.config;
  await checkSeccomp(parts, config);
  const namespaces = planNamespaces(runtime.namespacesDir, id, config);
  const options = config.linux?.security_context?.namespace_options;
  const hasPause = !runtime.dropInfraCtr || (options !== undefined && options !== null && options.pid === NamespaceMode.POD);
  const cgroup = containerCgroup(runtime.cgroupManager, config.linux?.cgroup_parent ?? '', id);
  const network = namespaces.net === undefined ? undefined : podNetwork(id, namespaces.net, config, cgroup.parent);
  const attachment = network && (await parts.cni.plan(network, { signal: flight.signal, onStage: (name) => flight.stage(name) }));
  // systemd makes and removes its slices itself.
  const missing = runtime.cgroupManager === 'systemd' ? undefined : await parts.cgroups.firstMissing(cgroup.parent);
  const pauseImage = hasPause && image.pauseImage !== '' ? await ensurePauseImage(parts, flight) : undefined;
  const selinuxLevel = takePodLevel(parts.host.selinuxPolicy, parts.selinuxLevels, id, config);
  return {
    id,
    fingerprint,
    config,
    runtimeHandler,
    handler: runtimeHandler === '' ? runtime.defaultRuntime : runtimeHandler,
    createdAt: parts.now(),
    state: 'creating',
    claimed: false,
    namespaces,
    ...(attachment === undefined ? {} : { attachment }),
    ips: [],
    hasPause,
    ...(pauseImage === undefined ? {} : { pauseImage }),
    ...(selinuxLevel === undefined ? {} : { selinuxLevel }),
    cgroup: cgroup.path,
    cgroupParent: cgroup.parent,
    ...(missing === undefined ? {} : { madeCgroupFrom: missing }),
  };
}

/** The pause runs without a filter (see `buildPauseSpec`), but a profile that the pod's containers will not find is told at once. */
async function checkSeccomp({ config, host }: Parts, { linux }: PodSandboxConfig): Promise<void> {
  const choice = seccompChoice('config.linux.security_context', linux?.security_context ?? null);
  if (choice.kind === 'file') await loadSeccompProfile({ choice, capabilities: [], host, defaultProfile: config.runtime.seccompProfile });
}

async function ensurePauseImage({ storage, config }: Parts, flight: Flight): Promise<string> {
  const present = storage.find(config.image.pauseImage);
  if (present !== undefined) return present.id;
  flight.stage(`pulling the pause image ${config.image.pauseImage}`);
  return (await storage.pull(config.image.pauseImage, { signal: flight.signal })).id;
}

async function makeSurroundings(parts: Parts, record: SandboxRecord, signal: AbortSignal): Promise<void> {
  const bundle = parts.paths.bundle(record.id);
  mkdirSync(bundle, { mode: 0o711 });
  const hostname = podHostname(record.config, record.namespaces);
  makePodFiles(podFiles(bundle, record.namespaces), record.config, { hostname, label: sandboxLabels(parts, record)?.mount });
  const idMaps = userNamespaceOf(record.config.linux?.security_context?.namespace_options);
  const sysctls = translateSysctls(podSysctls(parts.config.runtime.defaultSysctls, record), idMaps);
  await pinNamespaces(record.namespaces, { hostname, sysctls, idMaps, signal });
}

/** The request's sysctls over the configured ones; of those, only what belongs to a namespace that the pod has. */
function podSysctls(defaults: Readonly<Record<string, string>>, { config, namespaces }: SandboxRecord): Record<string, string> {
  const applicable = Object.entries(defaults).filter(([name]) => {
    const kind = sysctlNamespace(name);
    return kind !== undefined && namespaces[kind === 'network' ? 'net' : kind] !== undefined;
  });
  return { ...Object.fromEntries(applicable), ...config.linux?.sysctls };
}

const protocols = { [Protocol.TCP]: 'tcp', [Protocol.UDP]: 'udp', [Protocol.SCTP]: 'sctp' } as const;

function podNetwork(id: string, netns: string, config: PodSandboxConfig, cgroupPath: string): Attachment['pod'] {
  const metadata = config.metadata;
  return {
    id,
    netns,
    namespace: metadata?.namespace ?? '',
    name: metadata?.name ?? '',
    uid: metadata?.uid ?? '',
    // The kubelet sends every declared port; a host port of 0 asks for no mapping.
    portMappings: config.port_mappings
      .filter((mapping) => mapping.host_port > 0)
      .map((mapping) => ({
        hostPort: mapping.host_port,
        containerPort: mapping.container_port,
        protocol: protocols[mapping.protocol],
        hostIP: mapping.host_ip,
      })),
    annotations: config.annotations,
    cgroupPath,
    ...(config.dns_config === null ? {} : { dns: config.dns_config }),
  };
}

type Step<T> = (signal: AbortSignal, stage: (name: string) => void) => Promise<T> | undefined;

/** A CNI plugin that is killed may leave what no DEL finds (host-local makes its file first and fills it then). */
const SIBLING_GRACE_MS = 5_000;

/**
 * Runs two steps at once and waits for both, even when one fails, since the undo must not meet a step that still makes
 * things. The first failure cancels the other step, unless that comes to its end soon. The flight's stage tells which
 * steps are not done yet.
 */
async function sideBySide<A, B>(flight: Flight, [first, second]: readonly [Step<A>, Step<B>]): Promise<[A | undefined, B | undefined]> {
  const failed = new AbortController();
  const signal = AbortSignal.any([flight.signal, failed.signal]);
  const stages = ['', ''];
  let failure: { readonly err: unknown } | undefined;
  let timer: NodeJS.Timeout | undefined;
  const run = async <T>(index: number, step: Step<T>): Promise<T | undefined> => {
    const tell = (name: string): void => {
      stages[index] = name;
      flight.stage(stages.filter((stage) => stage !== '').join(' and '));
    };
    try {
      const result = await step(signal, tell);
      tell('');
      return result;
    } catch (err) {
      failure ??= { err };
      timer ??= setTimeout(() => failed.abort(err), SIBLING_GRACE_MS);
      throw err;
    }
  };
  const [a, b] = await Promise.allSettled([run(0, first), run(1, second)]);
  clearTimeout(timer);
  if (a.status === 'rejected' || b.status === 'rejected') throw flight.signal.aborted ? flight.signal.reason : failure?.err;
  return [a.value, b.value];
}
