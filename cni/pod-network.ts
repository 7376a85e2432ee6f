import type { CapabilityArgs } from './capabilities.ts';
import type { NetworkConf } from './conf.ts';
import type { PluginRun } from './plugin.ts';
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

/** One network of a pod. */
export interface NetworkAttachment {
  /** The interface inside the pod. */
  readonly ifName: string;
  /** The network configuration as it is used for this pod, whatever the files say later. */
  readonly conf: NetworkConf;
  /** Values for the capabilities that the plugins of `conf` declare, by capability name. */
  readonly capabilityArgs: CapabilityArgs;
  /** The last plugin's answer, once ADD has succeeded. */
  readonly result?: CniResult;
}

/**
 * What was, or may have been, set up for a pod. Plain JSON: the caller keeps it in the pod's record *before* `attach()`
 * and hands it back to `detach()`, even after a restart or a changed configuration.
 */
export interface Attachment {
  readonly pod: PodNetwork;
  /** The first is the one that Kubernetes knows; its interface is `eth0`. */
  readonly networks: readonly NetworkAttachment[];
}

/** `onStage` is told which plugin runs now, such as `CNI ADD by plugin bridge`; `onRun` how each run ended. */
export interface CallOptions {
  readonly signal: AbortSignal;
  readonly onStage?: ((stage: string) => void) | undefined;
  readonly onRun?: ((ended: PluginRun) => void) | undefined;
}
