import type { CapabilityArgs } from './capabilities.ts';
import type { NetworkConf } from './conf.ts';
import type { CniResult } from './result.ts';

/** One `ports` entry of a pod. A `hostPort` of 0 asks for nothing and is ignored. */
export interface PortMapping {
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  /** Empty for every address of the node. */
  readonly hostIP: string;
}

/** What the plugins are told about a pod. Plain JSON. */
export interface PodNetwork {
  /** The sandbox's id; plugins get it as `CNI_CONTAINERID`. */
  readonly id: string;
  /** Path of the pinned network namespace. */
  readonly netns: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly portMappings: readonly PortMapping[];
  readonly annotations: Readonly<Record<string, string>>;
  /** The pod's cgroup, for plugins with the capability `cgroupPath`. */
  readonly cgroupPath?: string;
  /** The pod's resolver, for plugins with the capability `dns`. */
  readonly dns?: { readonly servers: readonly string[]; readonly searches: readonly string[]; readonly options: readonly string[] };
}

/**
 * What was, or may have been, set up for a pod. Plain JSON: the caller keeps it in the pod's record *before* `attach()`
 * and hands it back to `detach()`, even after a restart, a changed configuration or a lost cache.
 */
export interface Attachment {
  /** The interface inside the pod. */
  readonly ifName: string;
  /** The network configuration as it is used for this pod, whatever the files say later. */
  readonly conf: NetworkConf;
  readonly pod: PodNetwork;
  /** Values for the capabilities that the plugins of `conf` declare, by capability name. */
  readonly capabilityArgs: CapabilityArgs;
  /** The last plugin's answer, once ADD has succeeded. */
  readonly result?: CniResult;
}
