import { type Run, run } from '#base/exec.ts';
import type { Log } from '#base/log.ts';
import type { Attachment, PodNetwork } from './pod-network.ts';

export type { NetworkConf, PluginConf } from './conf.ts';
export type { Attachment, PodNetwork, PortMapping } from './pod-network.ts';
export type { CniResult } from './result.ts';

export interface CniOptions {
  /** Where the network configurations lie; need not exist yet. */
  readonly networkDir: string;
  /** Where plugin binaries are looked for, in this order. */
  readonly pluginDirs: readonly string[];
  /** The network that pods get; empty for the first usable one by file name. */
  readonly defaultNetwork: string;
  /** See `setPodCidr()`. */
  readonly podCidr?: string;
  /** For the whole chain of ADDs, in milliseconds. */
  readonly addTimeoutMs: number;
  /** For the whole chain of DELs, in milliseconds. */
  readonly delTimeoutMs: number;
  readonly log: Log;
  readonly run?: Run;
  /** Called after each execution of a plugin. */
  readonly observe?: (verb: string, plugin: string, seconds: number, ok: boolean) => void;
}

/** The node's pod network as `Status` tells it; `reason` and `message` are empty when it is ready. */
export interface NetworkStatus {
  readonly ready: boolean;
  /** `NetworkPluginNotReady`, as the kubelet knows it. */
  readonly reason: string;
  readonly message: string;
}

/** What a call of plugins takes: the caller's signal, and who wants to know which plugin runs now. */
export interface CallOptions {
  readonly signal: AbortSignal;
  readonly onStage?: (stage: string) => void;
}

/** Puts pods on the node's network, and takes them off, by executing CNI plugins. */
export class Cni implements AsyncDisposable {
  readonly #options: CniOptions;
  readonly #run: Run;

  private constructor(options: CniOptions) {
    this.#options = options;
    this.#run = options.run ?? run;
  }

  static async open(options: CniOptions): Promise<Cni> {
    return new Cni(options);
  }

  /** From memory. */
  status(): NetworkStatus {
    throw new Error('not yet');
  }

  info(): object {
    return { run: this.#run, options: this.#options };
  }

  setPodCidr(_cidr: string): void {}

  async plan(_pod: PodNetwork): Promise<Attachment> {
    throw new Error('not yet');
  }

  async attach(_attachment: Attachment, _options: CallOptions): Promise<{ attachment: Attachment; ips: string[] }> {
    throw new Error('not yet');
  }

  async detach(_attachment: Attachment, _options: CallOptions): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}
