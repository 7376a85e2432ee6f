import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '#base/atomic-file.ts';
import { isErrno } from '#base/errors.ts';
import { CgroupDriver } from '../../proto/cri.ts';
import type { Handler } from '../call.ts';
import type { Parts } from '../parts.ts';
import { podName } from '../sandbox/sandbox.ts';

/** What the kubelet asks for, word for word, and gets back. Source: kubelet's typed version `0.1.0`. */
const KUBELET_API_VERSION = '0.1.0';

export const version =
  (berthVersion: string): Handler<'Version'> =>
  async () => ({ version: KUBELET_API_VERSION, runtime_name: 'berth', runtime_version: berthVersion, runtime_api_version: 'v1' });

export interface RuntimeHealth {
  /** What keeps pods from being started whatever their network; empty when nothing does. */
  problems(): readonly string[];
}

/** A pod that is still to be taken off its network. */
export interface PendingDetach {
  readonly id: string;
  readonly pod: string;
  /** Milliseconds since the epoch; absent where nothing has failed yet. */
  readonly failure?: { readonly since: number; readonly attempts: number; readonly error: string };
}

type StatusParts = Pick<Parts, 'cni' | 'config' | 'features' | 'userNamespaceProblem' | 'host' | 'sandboxes' | 'containers' | 'doomed' | 'lost'>;

/** All pods that are not on the network any more, as far as the kubelet knows, and have not been taken off it. */
export function pendingDetaches({ sandboxes, doomed, lost }: Pick<Parts, 'sandboxes' | 'doomed' | 'lost'>): PendingDetach[] {
  const leaving = [...sandboxes.values()].filter(({ id, state, attachment }) => attachment !== undefined && (state === 'notReady' || doomed.has(id)));
  return [
    ...leaving.map(({ id, config, detach }) => ({ id, pod: podName(config), ...(detach && { failure: detach }) })),
    ...[...lost].map(([id, { attachment, failure }]) => ({ id, pod: `${attachment.pod.namespace}/${attachment.pod.name}`, ...(failure && { failure }) })),
  ];
}

export const status =
  (parts: StatusParts, health: RuntimeHealth): Handler<'Status'> =>
  async ({ verbose }) => {
    const problems = health.problems();
    const network = parts.cni.status();
    const { defaultRuntime } = parts.config.runtime;
    const handler = (name: string, of: string) => {
      const can = parts.features.get(of);
      const userNamespaces = can?.userNamespaces === true && parts.userNamespaceProblem === undefined;
      return { name, features: { recursive_read_only_mounts: can?.recursiveReadOnlyMounts ?? false, user_namespaces: userNamespaces } };
    };
    const handlers = [handler('', defaultRuntime), ...[...parts.features.keys()].map((name) => handler(name, name))];
    return {
      status: {
        conditions: [
          { type: 'RuntimeReady', status: problems.length === 0, reason: problems.length === 0 ? '' : 'RuntimeNotReady', message: problems.join('; ') },
          { type: 'NetworkReady', status: network.ready, reason: network.reason, message: network.message },
        ],
      },
      // The kubelet looks the default handler up by the empty name.
      runtime_handlers: handlers,
      features: {
        supplemental_groups_policy: true,
        user_namespaces_host_network: handlers.some(({ features }) => features.user_namespaces),
        mount_options: true,
      },
      ...(verbose ? { info: statusInfo(parts) } : {}),
    };
  };

function statusInfo(parts: StatusParts): Record<string, string> {
  const { cni, config, host, userNamespaceProblem, sandboxes, containers, doomed } = parts;
  return {
    config: JSON.stringify(config),
    cni: JSON.stringify(cni.info()),
    host: JSON.stringify({ ...host, userNamespaces: userNamespaceProblem ?? 'possible' }),
    pending: JSON.stringify({
      detach: pendingDetaches(parts),
      undo: [...doomed],
    }),
    objects: JSON.stringify({ sandboxes: sandboxes.size, containers: containers.size }),
  };
}

export const runtimeConfig =
  ({ config }: Pick<Parts, 'config'>): Handler<'RuntimeConfig'> =>
  async () => ({ linux: { cgroup_driver: config.runtime.cgroupManager === 'systemd' ? CgroupDriver.SYSTEMD : CgroupDriver.CGROUPFS } });

/** Below root. */
const POD_CIDR_FILE = 'pod-cidr';

/** The pod CIDR of an earlier UpdateRuntimeConfig; empty when there was none. */
export async function readPodCidr(root: string): Promise<string> {
  try {
    return await readFile(join(root, POD_CIDR_FILE), 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return '';
    throw err;
  }
}

/** The pod CIDR goes to the plugins that ask for address ranges. */
export const updateRuntimeConfig =
  ({ cni, config, log }: Pick<Parts, 'cni' | 'config' | 'log'>): Handler<'UpdateRuntimeConfig'> =>
  async ({ runtime_config }) => {
    const cidr = runtime_config?.network_config?.pod_cidr ?? '';
    if (cidr === '') return {};
    cni.setPodCidr(cidr);
    await writeFileAtomic(join(config.root, POD_CIDR_FILE), cidr); // the kubelet tells it once
    log.info({ network: cidr }, 'Changed pod CIDR');
    return {};
  };
