import { type ContainerConfig, NamespaceMode, type PodSandboxConfig } from '../../proto/cri.ts';
import { pidMode } from './namespaces.ts';
import { type ContainerLabels, formatLabel, labelsFor, mergeSelinux, parseLabel, type SelinuxPolicy } from './selinux-label.ts';
import type { SelinuxLevels } from './selinux-levels.ts';

/** What the labels of a pod depend on beside its config. */
export interface PodLabelling {
  /** Absent where nothing is labelled. */
  readonly policy: SelinuxPolicy | undefined;
  /** The pod's, from its record; absent for a pod that was made without labels, and whose containers have none either. */
  readonly level: string | undefined;
  /** A pod on the node's network is not confined. */
  readonly hostNetworkUnconfined: boolean;
}

/** The labels of a pod's pause process, and of the files that its containers share. */
export function podLabels({ policy, level, hostNetworkUnconfined }: PodLabelling, pod: PodSandboxConfig): ContainerLabels | undefined {
  if (policy === undefined || level === undefined) return undefined;
  const security = pod.linux?.security_context ?? null;
  const unconfined = security?.privileged === true || sharesNode(pod, hostNetworkUnconfined) || security?.namespace_options?.pid === NamespaceMode.NODE;
  return labelsFor(policy, mergeSelinux(security?.selinux_options ?? null, null), { level, unconfined });
}

/** The labels of a container: its own options over its pod's. */
export function containerLabels(
  { policy, level, hostNetworkUnconfined }: PodLabelling,
  pod: PodSandboxConfig,
  config: ContainerConfig,
): ContainerLabels | undefined {
  if (policy === undefined || level === undefined) return undefined;
  const security = config.linux?.security_context ?? null;
  const unconfined = security?.privileged === true || sharesNode(pod, hostNetworkUnconfined) || pidMode(config, pod) === NamespaceMode.NODE;
  const options = mergeSelinux(pod.linux?.security_context?.selinux_options ?? null, security?.selinux_options ?? null);
  return labelsFor(policy, options, { level, unconfined });
}

/** Whether the labels are there to keep the process from something. */
export function isConfined({ process }: ContainerLabels, { unconfinedType }: SelinuxPolicy): boolean {
  return process !== undefined && (unconfinedType === undefined || parseLabel(process)?.type !== unconfinedType);
}

/** The node's message queues and shared memory, or its network, are not labelled for containers. */
function sharesNode(pod: PodSandboxConfig, hostNetworkUnconfined: boolean): boolean {
  const options = pod.linux?.security_context?.namespace_options;
  return options?.ipc === NamespaceMode.NODE || (hostNetworkUnconfined && options?.network === NamespaceMode.NODE);
}

/** Takes the level of a new pod: the one that it asks for, or a free one; empty under a policy without levels. */
export function takePodLevel(policy: SelinuxPolicy | undefined, levels: SelinuxLevels, id: string, { linux }: PodSandboxConfig): string | undefined {
  if (policy === undefined) return undefined;
  const asked = linux?.security_context?.selinux_options?.level ?? '';
  if (asked === '') return policy.process.level === '' ? '' : levels.take(id, policy.process.level);
  const level = levelOf(policy.canonical(formatLabel({ ...policy.file, level: asked })) ?? '') || asked;
  levels.hold(id, level);
  return level;
}

/** The level in a label's text; empty for none. */
export function levelOf(label: string): string {
  return parseLabel(label)?.level ?? '';
}
