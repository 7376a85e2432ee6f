import { CriError, describeError } from '#base/errors.ts';
import { type NetworkConf, type PluginConf, speaks } from './conf.ts';
import type { Executor } from './execute.ts';
import { CniError, type Limit, type Verb } from './plugin.ts';
import type { CallOptions, NetworkAttachment, PodNetwork } from './pod-network.ts';
import type { CniResult } from './result.ts';

/** For STATUS, CHECK and GC of one network. Milliseconds. */
const STATUS_MS = 10_000;
const CHECK_MS = 10_000;
const GC_MS = 30_000;

/** The verbs of one network: each runs its plugins in the order that the specification gives. */
export class Chain {
  readonly #executor: Executor;
  readonly #findPlugin: (type: string, fresh: boolean) => Promise<string>;

  /** `findPlugin` gives a binary's path; `fresh` looks at the directories, not at memory. */
  constructor(executor: Executor, findPlugin: (type: string, fresh: boolean) => Promise<string>) {
    this.#executor = executor;
    this.#findPlugin = findPlugin;
  }

  /** The last plugin's result. */
  async add(pod: PodNetwork, network: NetworkAttachment, { signal, onStage, onRun, limit }: CallOptions & { readonly limit: Limit }): Promise<CniResult> {
    const { conf } = network;
    let result: CniResult | undefined;
    for (const plugin of conf.plugins) {
      const path = await this.#find('ADD', conf, plugin, false);
      onStage?.(`CNI ADD by plugin ${plugin.type}`);
      result = await this.#executor.forPod('ADD', { conf, plugin, path, limit, signal, onRun, pod, network, netns: pod.netns, prevResult: result });
    }
    if (result === undefined) throw new CriError('failedPrecondition', `network ${conf.name} has no plugins`);
    return result;
  }

  /** Backwards, up to the first plugin that fails. */
  async delete(
    pod: PodNetwork,
    network: NetworkAttachment,
    { signal, onStage, onRun, limit, netns }: CallOptions & { readonly limit: Limit; readonly netns: string },
  ): Promise<void> {
    const { conf, result } = network;
    // DEL has had `prevResult` since CNI 0.4.0.
    const prevResult = speaks(conf.cniVersion, '0.4.0') ? result : undefined;
    for (const plugin of conf.plugins.toReversed()) {
      const path = await this.#find('DEL', conf, plugin, true);
      onStage?.(`CNI DEL by plugin ${plugin.type}`);
      await this.#executor.forPod('DEL', { conf, plugin, path, limit, signal, onRun, pod, network, netns, prevResult });
    }
  }

  /** Passes over networks without a result, older than CNI 0.4.0 or with `disableCheck`. */
  async check(pod: PodNetwork, network: NetworkAttachment, { signal, onRun }: CallOptions): Promise<void> {
    const { conf, result: prevResult } = network;
    if (prevResult === undefined || conf.disableCheck || !speaks(conf.cniVersion, '0.4.0')) return;
    const limit = startLimit(CHECK_MS);
    for (const plugin of conf.plugins) {
      const path = await this.#find('CHECK', conf, plugin, true);
      await this.#executor.forPod('CHECK', { conf, plugin, path, limit, signal, onRun, pod, network, netns: pod.netns, prevResult });
    }
  }

  async askStatus(conf: NetworkConf): Promise<void> {
    const limit = startLimit(STATUS_MS);
    for (const plugin of conf.plugins) {
      const path = await this.#find('STATUS', conf, plugin, true);
      await this.#executor.forNode('STATUS', { conf, plugin, path, limit, signal: limit.signal });
    }
  }

  /** Asks all plugins, also when one of them fails. */
  async collectGarbage(
    conf: NetworkConf,
    valid: readonly { readonly containerID: string; readonly ifname: string }[],
    { signal, failed }: { readonly signal: AbortSignal; readonly failed: (err: unknown) => void },
  ): Promise<void> {
    const limit = startLimit(GC_MS);
    for (const plugin of conf.plugins) {
      try {
        const path = await this.#find('GC', conf, plugin, true);
        await this.#executor.forNode('GC', { conf, plugin, path, limit, signal, more: { 'cni.dev/valid-attachments': valid } });
      } catch (err) {
        signal.throwIfAborted();
        failed(err);
      }
    }
  }

  async #find(verb: Verb, conf: NetworkConf, { type }: PluginConf, fresh: boolean): Promise<string> {
    try {
      return await this.#findPlugin(type, fresh);
    } catch (err) {
      throw new CniError({ verb, plugin: type, network: conf.name }, describeError(err));
    }
  }
}

export function startLimit(ms: number): Limit {
  return { ms, signal: AbortSignal.timeout(ms) };
}
