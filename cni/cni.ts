import { statfs } from 'node:fs/promises';
import { CriError, describeError, isErrno } from '#base/errors.ts';
import { type Run, run } from '#base/exec.ts';
import type { Log } from '#base/log.ts';
import { checkArgs, pluginEnv } from './args.ts';
import { capabilityArgs, parsePodCidr, runtimeConfig } from './capabilities.ts';
import { type CniVersion, type PluginConf, speaks } from './conf.ts';
import { findPlugin } from './load.ts';
import { Networks } from './networks.ts';
import { CniError, callPlugin, type Limit, type PluginCall, type Verb } from './plugin.ts';
import type { Attachment, PodNetwork } from './pod-network.ts';
import { addressesOf, type CniResult, parseResult } from './result.ts';

export type { NetworkConf, PluginConf } from './conf.ts';
export { endOrphanedPlugins } from './orphans.ts';
export { CniError } from './plugin.ts';
export type { Attachment, PodNetwork, PortMapping } from './pod-network.ts';
export type { CniResult } from './result.ts';

export interface CniOptions {
  /** Where the network configurations lie; need not exist yet. */
  readonly networkDir: string;
  /** Where plugin binaries are looked for, in this order. */
  readonly pluginDirs: readonly string[];
  /** The network that pods get; empty for the first by file name. */
  readonly defaultNetwork: string;
  /** See `setPodCidr()`. */
  readonly podCidr?: string;
  /** For a pod's whole chain of ADDs, in milliseconds. */
  readonly addTimeoutMs: number;
  /** For a pod's whole chain of DELs, in milliseconds. */
  readonly delTimeoutMs: number;
  readonly log: Log;
  readonly run?: Run;
  /** Called after each execution of a plugin. */
  readonly observe?: (verb: string, plugin: string, seconds: number, ok: boolean) => void;
}

/** The node's pod network as `Status` tells it; `reason` and `message` are empty when it is ready. */
export interface NetworkStatus {
  readonly ready: boolean;
  /** `NetworkPluginNotReady`, the reason that other Kubernetes runtimes give. */
  readonly reason: string;
  readonly message: string;
}

/** `onStage` is told which plugin runs now, such as `CNI ADD by plugin bridge`. */
export interface CallOptions {
  readonly signal: AbortSignal;
  readonly onStage?: ((stage: string) => void) | undefined;
}

/** The interface in the pod that Kubernetes expects. */
const IF_NAME = 'eth0';

/**
 * Puts pods on the node's network, and takes them off again, by executing CNI plugins (spec 1.1 and back to 0.1).
 * The caller sees to it that calls for one pod come one after the other; different pods run side by side.
 */
export class Cni implements AsyncDisposable {
  readonly #options: CniOptions;
  readonly #run: Run;
  readonly #networks: Networks;
  #podCidr: string;

  private constructor(options: CniOptions, networks: Networks) {
    this.#options = options;
    this.#run = options.run ?? run;
    this.#networks = networks;
    this.#podCidr = options.podCidr ?? '';
  }

  /** Reads the configuration and begins to watch it. Succeeds without any: `status()` then tells. */
  static async open(options: CniOptions): Promise<Cni> {
    if (options.podCidr !== undefined && options.podCidr !== '') parsePodCidr(options.podCidr);
    return new Cni(options, await Networks.open(options));
  }

  /** From memory, which follows the files within about a second. */
  status(): NetworkStatus {
    const { why } = this.#networks.choice;
    return why === undefined ? { ready: true, reason: '', message: '' } : { ready: false, reason: 'NetworkPluginNotReady', message: why };
  }

  /** For people: the networks seen, the files passed over, the default. From memory. */
  info(): object {
    const { networks, problems } = this.#networks.inventory;
    return {
      networkDir: this.#options.networkDir,
      pluginDirs: this.#options.pluginDirs,
      defaultNetwork: this.#networks.choice.network?.conf.name ?? this.#options.defaultNetwork,
      podCidr: this.#podCidr,
      networks: networks.map(({ file, conf, missing }) => ({
        name: conf.name,
        file,
        cniVersion: conf.cniVersion,
        plugins: conf.plugins.map(({ type }) => type),
        missing,
      })),
      problems,
    };
  }

  /**
   * The node's pod address range, one or two joined by a comma; pods planned from now on get it by the capability
   * `ipRanges`. Empty takes it away.
   * @throws {CriError} `invalidArgument`; the range before stays.
   */
  setPodCidr(cidr: string): void {
    if (cidr !== '') parsePodCidr(cidr);
    this.#podCidr = cidr;
  }

  /**
   * Picks the network for a pod. The caller keeps the answer before it calls `attach()`.
   * @throws {CriError} `failedPrecondition` when no network is ready, after one fresh look at the files;
   * `invalidArgument` for a pod that the plugins cannot be told about.
   */
  async plan(pod: PodNetwork): Promise<Attachment> {
    checkArgs(pod);
    const { network, why } = await this.#networks.fresh();
    if (network === undefined) throw new CriError('failedPrecondition', `pod network is not ready: ${why}`);
    const { conf } = network;
    return { ifName: IF_NAME, conf, pod, capabilityArgs: capabilityArgs(conf, pod, this.#podCidr) };
  }

  /**
   * Adds the pod to its network: ADD by each plugin in turn, each with the result before it. `ips` are the pod's
   * addresses in the result's order, the first of which is the pod's main one.
   *
   * When it fails, part of the network may be there: **it does not run DEL itself**. The caller has registered
   * `detach()` with the planned attachment as its way back before calling, and keeps trying where that fails too.
   * @throws {CniError} when a plugin fails; {CriError} `deadlineExceeded` when the chain takes longer than
   * `addTimeoutMs`; the reason of `signal`.
   */
  async attach(attachment: Attachment, { signal, onStage }: CallOptions): Promise<{ attachment: Attachment; ips: string[] }> {
    const { conf, ifName, pod } = attachment;
    const limit = startLimit(this.#options.addTimeoutMs);
    let result: CniResult | undefined;
    let last = '';
    for (const plugin of conf.plugins) {
      const path = await this.#find('ADD', attachment, plugin, (type) => this.#networks.pluginPath(type));
      onStage?.(`CNI ADD by plugin ${plugin.type}`);
      result = await this.#call('ADD', attachment, { plugin, path, prevResult: result, netns: pod.netns, limit, signal });
      last = plugin.type;
    }
    if (result === undefined) throw new CriError('failedPrecondition', `network ${conf.name} has no plugins`);
    const ips = addressesOf(result, ifName);
    if (ips.length === 0) throw new CniError({ verb: 'ADD', plugin: last, network: conf.name }, `answered with no address for ${ifName}`);
    return { attachment: { ...attachment, result }, ips };
  }

  /**
   * Takes the pod off its network: DEL by each plugin in reverse order, with the final result of ADD where there is one
   * (CNI spec 1.1, DEL). Safe to repeat, and to call for what was never, or only half, attached. A network namespace that
   * is gone is no hindrance. Stops at the first plugin that fails: a retry runs the whole chain again, and plugins
   * further on may need what the failed one still holds.
   * @throws as `attach()`, with `delTimeoutMs`; {CniError} also when a plugin's binary is gone, since nobody else knows
   * what it has set up.
   */
  async detach(attachment: Attachment, { signal, onStage }: CallOptions): Promise<void> {
    const { conf, pod, result } = attachment;
    const limit = startLimit(this.#options.delTimeoutMs);
    const netns = (await isNamespace(pod.netns)) ? pod.netns : '';
    // DEL has had `prevResult` since CNI 0.4.0.
    const prevResult = speaks(conf.cniVersion, '0.4.0') ? result : undefined;
    for (const plugin of conf.plugins.toReversed()) {
      const path = await this.#find('DEL', attachment, plugin, (type) => findPlugin(type, this.#options.pluginDirs));
      onStage?.(`CNI DEL by plugin ${plugin.type}`);
      await this.#call('DEL', attachment, { plugin, path, prevResult, netns, limit, signal });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#networks[Symbol.asyncDispose]();
  }

  async #find(verb: Verb, { conf }: Attachment, { type }: PluginConf, find: (type: string) => Promise<string>): Promise<string> {
    try {
      return await find(type);
    } catch (err) {
      throw new CniError({ verb, plugin: type, network: conf.name }, describeError(err));
    }
  }

  async #call(
    verb: Verb,
    { conf, pod, ifName, capabilityArgs: args }: Attachment,
    step: { plugin: PluginConf; path: string; prevResult: CniResult | undefined; netns: string; limit: Limit; signal: AbortSignal },
  ): Promise<CniResult | undefined> {
    const { plugin, path, prevResult, netns, limit, signal } = step;
    const { capabilities: _, ...own } = plugin;
    const runtime = runtimeConfig(plugin, args);
    // CNI spec 1.1, section 3, "Deriving request configuration": these are put in, `capabilities` is taken out.
    const input = { ...own, name: conf.name, cniVersion: conf.cniVersion, ...(runtime && { runtimeConfig: runtime }), ...(prevResult && { prevResult }) };
    const startedAt = performance.now();
    let ok = false;
    try {
      const env = pluginEnv(verb, pod, { ifName, netns, pluginDirs: this.#options.pluginDirs });
      const call = { verb, plugin: plugin.type, path, network: conf.name, env, input: JSON.stringify(input) };
      const stdout = await callPlugin(call, { run: this.#run, limit, signal });
      const result = verb === 'ADD' ? readResult(call, stdout, conf.cniVersion) : undefined;
      ok = true;
      return result;
    } finally {
      this.#options.observe?.(verb, plugin.type, (performance.now() - startedAt) / 1000, ok);
    }
  }
}

function readResult(call: PluginCall, stdout: string, version: CniVersion): CniResult {
  try {
    return parseResult(stdout, version);
  } catch (err) {
    throw new CniError(call, describeError(err));
  }
}

function startLimit(ms: number): Limit {
  return { ms, signal: AbortSignal.timeout(ms) };
}

/**
 * True where a namespace is mounted, or a process has one. After a lazy unmount an empty file may remain, which plugins
 * refuse. Source: linux/magic.h.
 */
async function isNamespace(path: string): Promise<boolean> {
  const NSFS_MAGIC = 0x6e736673;
  const PROC_SUPER_MAGIC = 0x9fa0;
  if (path === '') return false;
  try {
    const { type } = await statfs(path);
    return type === NSFS_MAGIC || type === PROC_SUPER_MAGIC;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return false;
    throw err;
  }
}
