import { invalidField } from '#base/errors.ts';
import type { Verb } from './plugin.ts';
import type { PodNetwork } from './pod-network.ts';

/**
 * The environment a plugin is executed with (CNI spec 1.1, section 2, "Parameters"). `netns` is empty where the
 * namespace is gone.
 */
export function pluginEnv(verb: Verb, pod: PodNetwork, { ifName, netns, pluginDirs }: { ifName: string; netns: string; pluginDirs: readonly string[] }) {
  return {
    CNI_COMMAND: verb,
    CNI_CONTAINERID: pod.id,
    CNI_NETNS: netns,
    CNI_IFNAME: ifName,
    CNI_ARGS: cniArgs(pod),
    CNI_PATH: pluginDirs.join(':'),
  };
}

/** The environment of the verbs that are about no pod. */
export function nodeEnv(verb: Verb, pluginDirs: readonly string[]): Record<string, string> {
  return { CNI_COMMAND: verb, CNI_PATH: pluginDirs.join(':') };
}

/** What Kubernetes' runtimes tell plugins about the pod; Multus, Calico and others look it up by these keys. */
export function cniArgs({ id, namespace, name, uid }: PodNetwork): string {
  return `IgnoreUnknown=1;K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${name};K8S_POD_INFRA_CONTAINER_ID=${id};K8S_POD_UID=${uid}`;
}

/**
 * Refuses a pod whose names would end one pair of `CNI_ARGS` and begin another.
 * @throws {CriError} `invalidArgument` with the field of the sandbox's configuration.
 */
export function checkArgs({ namespace, name, uid }: PodNetwork): void {
  for (const [field, value] of Object.entries({ namespace, name, uid })) {
    if (/[;=\0]/.test(value)) throw invalidField(`config.metadata.${field}`, value, 'holds a character that CNI plugins cannot be told (; or =)');
  }
}
