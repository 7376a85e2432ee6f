import { describeError } from '#base/errors.ts';
import type { Run } from '#base/exec.ts';
import { nodeEnv, pluginEnv } from './args.ts';
import { runtimeConfig } from './capabilities.ts';
import type { NetworkConf, PluginConf } from './conf.ts';
import { CniError, callPlugin, type Limit, type PluginCall, type PluginRun, type Verb } from './plugin.ts';
import type { NetworkAttachment, PodNetwork } from './pod-network.ts';
import { type CniResult, parseResult } from './result.ts';

/** A plugin of a network, with where its binary is. */
export interface Step {
  readonly conf: NetworkConf;
  readonly plugin: PluginConf;
  readonly path: string;
  readonly limit: Limit;
  readonly signal: AbortSignal;
  readonly onRun?: ((ended: PluginRun) => void) | undefined;
}

/** What the verbs for one pod add to a step. `netns` is empty where the namespace is gone. */
export interface PodStep {
  readonly pod: PodNetwork;
  readonly network: NetworkAttachment;
  readonly netns: string;
  readonly prevResult: CniResult | undefined;
}

/** Builds what a plugin gets for a verb, executes it and reads its answer. */
export class Executor {
  readonly #run: Run;
  readonly #pluginDirs: readonly string[];
  readonly #observe: (ended: PluginRun) => void;

  constructor({ run, pluginDirs, observe }: { readonly run: Run; readonly pluginDirs: readonly string[]; readonly observe: (ended: PluginRun) => void }) {
    this.#run = run;
    this.#pluginDirs = pluginDirs;
    this.#observe = observe;
  }

  /** The result where `verb` is ADD. Throws as `callPlugin()`, and a {CniError} for an answer that is no result. */
  async forPod(verb: 'ADD' | 'DEL' | 'CHECK', step: Step & PodStep): Promise<CniResult | undefined> {
    const { network, pod, netns, prevResult, plugin } = step;
    const runtime = runtimeConfig(plugin, network.capabilityArgs);
    const more = { ...(runtime && { runtimeConfig: runtime }), ...(prevResult && { prevResult }) };
    const env = pluginEnv(verb, pod, { ifName: network.ifName, netns, pluginDirs: this.#pluginDirs });
    return await this.#execute(verb, { ...step, more, env }, (call, stdout) => (verb === 'ADD' ? readResult(call, stdout, step.conf) : undefined));
  }

  /** STATUS and GC; `more` are the keys of the verb. */
  async forNode(verb: 'STATUS' | 'GC', step: Step & { readonly more?: Readonly<Record<string, unknown>> }): Promise<void> {
    await this.#execute(verb, { more: {}, ...step, env: nodeEnv(verb, this.#pluginDirs) }, () => undefined);
  }

  async #execute<T>(
    verb: Verb,
    { conf, plugin, path, more, env, limit, signal, onRun }: Step & { readonly more: Readonly<Record<string, unknown>>; readonly env: PluginCall['env'] },
    read: (call: PluginCall, stdout: string) => T,
  ): Promise<T> {
    const { capabilities: _, ...own } = plugin;
    // CNI spec 1.1, section 3, "Deriving request configuration": these are put in, `capabilities` is taken out.
    const input = JSON.stringify({ ...own, name: conf.name, cniVersion: conf.cniVersion, ...more });
    const call: PluginCall = { verb, plugin: plugin.type, path, network: conf.name, env, input };
    const startedAt = performance.now();
    let failure: unknown;
    try {
      return read(call, await callPlugin(call, { run: this.#run, limit, signal }));
    } catch (err) {
      failure = err;
      throw err;
    } finally {
      const seconds = (performance.now() - startedAt) / 1000;
      const ended = { verb, plugin: plugin.type, network: conf.name, seconds, ...(failure === undefined ? {} : { error: describeError(failure) }) };
      this.#observe(ended);
      onRun?.(ended);
    }
  }
}

function readResult(call: PluginCall, stdout: string, { cniVersion }: NetworkConf): CniResult {
  try {
    return parseResult(stdout, cniVersion);
  } catch (err) {
    throw new CniError(call, describeError(err));
  }
}
