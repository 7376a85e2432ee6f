import type { Run } from '#base/exec.ts';
import type { Log } from '#base/log.ts';
import type { PluginRun } from './plugin.ts';

export interface CniOptions {
  /** Where the network configurations lie; need not exist yet. */
  readonly networkDir: string;
  /** Where plugin binaries are looked for, in this order. */
  readonly pluginDirs: readonly string[];
  /** The second copy of what is attached lies here; made where it is not there. */
  readonly cacheDir: string;
  /** See `setPodCidr()`. */
  readonly podCidr?: string;
  readonly settings: CniSettings;
  readonly log: Log;
  readonly run?: Run;
  /** Called after each execution of a plugin. */
  readonly observe?: (ended: PluginRun) => void;
}

/** What may change while pods run. */
export interface CniSettings {
  /** The network that pods get; empty for the first by file name. */
  readonly defaultNetwork: string;
  /** Names of the networks that each pod gets beside it, as `eth1`, `eth2`, … */
  readonly additionalNetworks: readonly string[];
  /** For a pod's whole chain of ADDs, in milliseconds. */
  readonly addTimeoutMs: number;
  /** For a pod's whole chain of DELs, in milliseconds. */
  readonly delTimeoutMs: number;
  /** Pods whose ADDs run at the same time, and apart from them pods whose DELs do; 0 sets no limit. */
  readonly parallel: number;
  /** How long STATUS may fail before the node tells so, in milliseconds; with 0 it is asked until it succeeds, and not again. */
  readonly statusGraceMs: number;
  /** False where pods get no host ports. */
  readonly hostPorts: boolean;
}

/** The node's pod network as `Status` tells it; `reason` and `message` are empty when it is ready. */
export interface NetworkStatus {
  readonly ready: boolean;
  /** `NetworkPluginNotReady`, the reason that other Kubernetes runtimes give. */
  readonly reason: string;
  readonly message: string;
}
