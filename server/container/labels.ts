import type { ContainerConfig, Mount } from '../../proto/cri.ts';
import type { ResolvedMount } from '../oci/mounts.ts';
import { asksForSelinux, type ContainerLabels } from '../oci/selinux-label.ts';
import { containerLabels, isConfined } from '../oci/selinux-pod.ts';
import type { Parts } from '../parts.ts';
import type { SandboxRecord } from '../sandbox/sandbox.ts';
import { relabelMounts } from './relabel.ts';

interface LabelRequest {
  readonly config: ContainerConfig;
  readonly sandbox: SandboxRecord;
}

/** The SELinux labels that a container gets; `undefined` where there are none to get. */
export function findLabels({ host, config: { runtime } }: Pick<Parts, 'host' | 'config'>, { config, sandbox }: LabelRequest): ContainerLabels | undefined {
  const labelling = { policy: host.selinuxPolicy, level: sandbox.selinuxLevel, hostNetworkUnconfined: runtime.hostnetworkDisableSelinux };
  return containerLabels(labelling, sandbox.config, config);
}

/** Says once that labels are asked for which nobody gets. */
export function passedOverLabels({ host, once }: Pick<Parts, 'host' | 'once'>, { config, sandbox }: LabelRequest): void {
  if (!asksForSelinux(config.linux?.security_context?.selinux_options ?? null)) return;
  const why = host.selinuxPolicy === undefined ? 'runtime.selinux is false' : 'the pod was made without labels';
  once('selinux', { sandboxId: sandbox.id, reason: host.selinux ? why : 'the node has no SELinux' }, 'Passed over SELinux labels');
}

/**
 * Labels the volumes that ask for it. A process that is not confined needs no label on what it mounts, and would take it
 * from those that do.
 * @throws {CriError} as `relabelMounts`.
 */
export async function labelVolumes(
  { host, config: { root, runroot } }: Pick<Parts, 'host' | 'config'>,
  mounts: readonly Mount[],
  { labels, resolved, signal }: { readonly labels: ContainerLabels; readonly resolved: readonly ResolvedMount[]; readonly signal: AbortSignal },
): Promise<void> {
  if (host.selinuxPolicy === undefined || !isConfined(labels, host.selinuxPolicy)) return;
  await relabelMounts(mounts, resolved, { label: labels.mount, ownRoots: [root, runroot], signal });
}
