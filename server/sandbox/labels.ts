import type { ContainerLabels } from '../oci/selinux-label.ts';
import { type PodLabelling, podLabels } from '../oci/selinux-pod.ts';
import type { Parts } from '../parts.ts';
import type { SandboxRecord } from './sandbox.ts';

/** The SELinux labels of a pod's pause process and files; `undefined` where it has none. */
export function sandboxLabels({ host, config }: Pick<Parts, 'host' | 'config'>, record: SandboxRecord): ContainerLabels | undefined {
  const labelling: PodLabelling = {
    policy: host.selinuxPolicy,
    level: record.selinuxLevel,
    hostNetworkUnconfined: config.runtime.hostnetworkDisableSelinux,
  };
  return podLabels(labelling, record.config);
}
