import { run } from '#base/exec.ts';
import { Semaphore } from '#base/lock.ts';
import { checkArgs } from './args.ts';
import { AttachmentCache } from './cache.ts';
import { capabilityArgs, checkAnnotations, parsePodCidr } from './capabilities.ts';
import { Chain, startLimit } from './chain.ts';
import { speaks } from './conf.ts';
import { Conntrack } from './conntrack.ts';
import { removeEmptyLeases } from './empty-leases.ts';
import { Executor } from './execute.ts';
import { Gate } from './gate.ts';
import { withPortMapping } from './host-ports.ts';
import { removeLeftRules } from './left-rules.ts';
import { findPlugin } from './load.ts';
import { isNamespace } from './netns.ts';
import { Networks } from './networks.ts';
import type { CniOptions, CniSettings, NetworkStatus } from './options.ts';
import { CniError } from './plugin.ts';
import type { Attachment, CallOptions, NetworkAttachment, PodNetwork } from './pod-network.ts';
import { Readiness } from './readiness.ts';
import { addressesOf, firstOfEachFamily } from './result.ts';
import { PluginVersions } from './versions.ts';

export type { NetworkConf, PluginConf } from './conf.ts';
export type { CniOptions, CniSettings, NetworkStatus } from './options.ts';
export { endOrphanedPlugins } from './orphans.ts';
export { CniError, type PluginRun } from './plugin.ts';
export type { Attachment, CallOptions, NetworkAttachment, PodNetwork, PortMapping } from './pod-network.ts';
export { type CniResult, dnsOf } from './result.ts';

/**
 * Puts pods on the node's networks, and takes them off again, by executing CNI plugins (spec 1.1 and back to 0.1).
 * The caller sees to it that calls for one pod come one after the other; different pods run side by side.
 */
export class Cni implements AsyncDisposable {
  readonly #options: CniOptions;
  readonly #chain: Chain;
  readonly #networks: Networks;
  readonly #readiness: Readiness;
  readonly #cache: AttachmentCache;
  readonly #conntrack: Conntrack;
  readonly #gate = new Gate();
  #settings: CniSettings;
  readonly #adds: Semaphore;
  readonly #dels: Semaphore;
  #podCidr: string;

  private constructor(options: CniOptions, parts: { chain: Chain; networks: Networks; cache: AttachmentCache }) {
    const { settings, log } = options;
    this.#options = options;
    this.#settings = settings;
    this.#chain = parts.chain;
    this.#networks = parts.networks;
    this.#cache = parts.cache;
    this.#conntrack = new Conntrack(options.run ?? run, log);
    this.#adds = new Semaphore(places(settings));
    this.#dels = new Semaphore(places(settings));
    this.#podCidr = options.podCidr ?? '';
    this.#readiness = new Readiness({ networks: parts.networks, ask: ({ conf }) => this.#chain.askStatus(conf), graceMs: settings.statusGraceMs, log });
  }

  /** Reads the configuration and begins to watch it. Succeeds without any: `status()` then tells. */
  static async open(options: CniOptions): Promise<Cni> {
    const { podCidr = '', settings, log, networkDir, pluginDirs } = options;
    if (podCidr !== '') parsePodCidr(podCidr);
    const commandRun = options.run ?? run;
    const observe = options.observe ?? (() => {});
    const versions = new PluginVersions({
      run: commandRun,
      log,
      observe: (seconds, plugin, ok) => observe({ verb: 'VERSION', plugin, network: '', seconds, ...(ok ? {} : { error: 'no answer' }) }),
    });
    const cache = await AttachmentCache.open(options.cacheDir, log);
    const networks = await Networks.open({ networkDir, pluginDirs, ...settings, log, versions });
    const executor = new Executor({ run: commandRun, pluginDirs, observe });
    const find = (type: string, fresh: boolean): Promise<string> => (fresh ? findPlugin(type, pluginDirs) : networks.pluginPath(type));
    return new Cni(options, { chain: new Chain(executor, find), networks, cache });
  }

  /** Takes other settings; what runs goes on under those that it began with. */
  async configure(settings: CniSettings): Promise<void> {
    const { parallel } = this.#settings;
    this.#settings = settings;
    if (settings.parallel !== parallel) {
      this.#adds.resize(places(settings));
      this.#dels.resize(places(settings));
    }
    this.#readiness.graceMs = settings.statusGraceMs;
    await this.#networks.configure(settings);
  }

  /** From memory, which follows the files within about a second, and STATUS within a few. */
  status(): NetworkStatus {
    const { why } = this.#readiness;
    return why === undefined ? { ready: true, reason: '', message: '' } : { ready: false, reason: 'NetworkPluginNotReady', message: why };
  }

  /** For people: the networks seen, the files passed over, the default. From memory. */
  info(): object {
    const { networks, problems } = this.#networks.inventory;
    const { defaultNetwork, additionalNetworks } = this.#settings;
    return {
      networkDir: this.#options.networkDir,
      pluginDirs: this.#options.pluginDirs,
      defaultNetwork: this.#networks.choice.network?.conf.name ?? defaultNetwork,
      additionalNetworks,
      podCidr: this.#podCidr,
      notReady: this.#readiness.whyNot() ?? '',
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
   * Picks the networks for a pod, and waits for them while they are not ready: `onStage` is told why. The caller keeps
   * the answer before it calls `attach()`.
   * @throws {CriError} `invalidArgument` for a pod that the plugins cannot be told about; `failedPrecondition` for host
   * ports that nothing can map; the reason of `signal`.
   */
  async plan(pod: PodNetwork, { signal, onStage }: CallOptions): Promise<Attachment> {
    checkArgs(pod);
    checkAnnotations(pod);
    const told = this.#settings.hostPorts ? pod : { ...pod, portMappings: [] };
    const networks = await this.#readiness.wait(signal, (why) => onStage?.(`waiting for the pod network (${why})`));
    const planned = networks.map(async ({ conf }, index): Promise<NetworkAttachment> => {
      // Host ports lead to the pod's main address, and a second mapping of them would be a conflict.
      const own = index === 0 ? told : { ...told, portMappings: [] };
      const full = await withPortMapping(conf, own, (type) => this.#networks.pluginPath(type));
      return { ifName: `eth${index}`, conf: full, capabilityArgs: capabilityArgs(full, own, this.#podCidr) };
    });
    return { pod: told, networks: await Promise.all(planned) };
  }

  /**
   * Adds the pod to its networks: ADD by each plugin in turn, each with the result before it. `ips` are the pod's
   * addresses on the first network, one for each family, in the result's order; the first is the pod's main one.
   *
   * When it fails, part of the network may be there: **it does not run DEL itself**. The caller has registered
   * `detach()` with the planned attachment as its way back before calling, and keeps trying where that fails too.
   * @throws {CniError} when a plugin fails; {CriError} `deadlineExceeded` when all of it takes longer than
   * `addTimeoutMs`; the reason of `signal`.
   */
  async attach(attachment: Attachment, options: CallOptions): Promise<{ attachment: Attachment; ips: string[] }> {
    options.onStage?.('waiting for the CNI plugins of other pods');
    return await this.#turn(this.#adds, options.signal, async () => {
      const limit = startLimit(this.#settings.addTimeoutMs);
      // Beside the first plugins, which take ten times as long: until then the caller's own copy is the plan.
      const planned = this.#cache.save(attachment);
      let added = attachment;
      for (const [index, network] of attachment.networks.entries()) {
        const [result] = await allSettled([this.#chain.add(attachment.pod, network, { ...options, limit }), planned]);
        added = { ...added, networks: added.networks.with(index, { ...network, result }) };
        await this.#cache.save(added);
      }
      const [main] = added.networks;
      const ips = main?.result === undefined ? [] : firstOfEachFamily(addressesOf(main.result, main.ifName));
      if (main === undefined || ips.length === 0) {
        const { conf, ifName } = main ?? { conf: { name: '', plugins: [] }, ifName: '' };
        throw new CniError({ verb: 'ADD', plugin: conf.plugins.at(-1)?.type ?? '', network: conf.name }, `answered with no address for ${ifName}`);
      }
      await this.#conntrack.flush(attachment.pod, options.signal);
      return { attachment: added, ips };
    });
  }

  /**
   * Takes the pod off its networks: DEL by each plugin in reverse order, with the final result of ADD where there is one
   * (CNI spec 1.1, DEL), from the cache where the caller's attachment has none. Safe to repeat, and to call for what was
   * never, or only half, attached. A network namespace that is gone is no hindrance. A chain stops at the first plugin
   * that fails: a retry runs the whole chain again, and plugins further on may need what the failed one still holds.
   * `thorough` is for a pod whose ADD or DEL may have been cut off before: then it looks for what the plugins forget.
   * @throws as `attach()`, with `delTimeoutMs`; {CniError} also when a plugin's binary is gone, since nobody else knows
   * what it has set up.
   */
  async detach(attachment: Attachment, options: CallOptions & { readonly thorough?: boolean }): Promise<void> {
    options.onStage?.('waiting for the CNI plugins of other pods');
    await this.#turn(this.#dels, options.signal, async () => {
      const { pod, networks } = attachment;
      const limit = startLimit(this.#settings.delTimeoutMs);
      const netns = (await isNamespace(pod.netns)) ? pod.netns : '';
      const cached = networks.every(({ result }) => result !== undefined) ? undefined : await this.#cache.load(pod.id);
      const failures: unknown[] = [];
      for (const network of networks.toReversed()) {
        const result = network.result ?? cached?.networks.find(({ conf, ifName }) => conf.name === network.conf.name && ifName === network.ifName)?.result;
        const whole = { ...network, ...(result === undefined ? {} : { result }) };
        await this.#chain.delete(pod, whole, { ...options, netns, limit }).catch((err: unknown) => failures.push(err));
      }
      if (failures.length > 0) throw failures[0];
      if (netns === '' || options.thorough === true)
        await removeLeftRules(pod.id, { run: this.#options.run ?? run, log: this.#options.log, signal: options.signal });
      await this.#conntrack.flush(pod, options.signal);
      await this.#cache.remove(pod.id);
    });
  }

  /**
   * Asks the plugins whether all is still there that ADD has made (CNI spec 1.1, CHECK). Networks without a result,
   * older than CNI 0.4.0 or with `disableCheck` are passed over.
   * @throws {CniError} of the first plugin that misses something.
   */
  async check({ pod, networks }: Attachment, options: CallOptions): Promise<void> {
    for (const network of networks) await this.#chain.check(pod, network, options);
  }

  /**
   * Has plugins take away what belongs to none of these pods (CNI spec 1.1, GC), on each network in 1.1 that does not
   * forbid it. No ADD or DEL runs meanwhile; `attached` is asked when that is so. What fails is logged: the next one
   * will try again. Rejects only with the reason of `signal`.
   */
  async collectGarbage(attached: () => readonly Attachment[], signal: AbortSignal): Promise<void> {
    const wanted = this.#networks.inventory.networks.filter(({ conf, missing }) => speaks(conf.cniVersion, '1.1.0') && !conf.disableGC && missing.length === 0);
    if (wanted.length === 0) return;
    await this.#gate.alone(async () => {
      const all = attached().flatMap(({ pod, networks }) => networks.map(({ conf, ifName }) => ({ name: conf.name, containerID: pod.id, ifname: ifName })));
      for (const { conf } of wanted) {
        const valid = all.filter(({ name }) => name === conf.name).map(({ name: _, ...rest }) => rest);
        await this.#chain.collectGarbage(conf, valid, {
          signal,
          failed: (err) => this.#options.log.warn({ network: conf.name, err }, 'Failed CNI garbage collection'),
        });
      }
    }, signal);
  }

  /** Removes leases of addresses that a kill or a power cut has left empty: no DEL and no GC finds them. */
  async removeEmptyLeases(): Promise<void> {
    for (const { conf } of this.#networks.inventory.networks) await removeEmptyLeases(conf, this.#options.log);
  }

  /** Attachments that the cache has and that belong to none of these pods: their records were lost. */
  async lost(known: ReadonlySet<string>): Promise<Attachment[]> {
    const ids = (await this.#cache.ids()).filter((id) => !known.has(id));
    return (await Promise.all(ids.map((id) => this.#cache.load(id)))).filter((attachment) => attachment !== undefined);
  }

  /** Gives up what could not be detached: the plugins may have left something, and nobody will tell them again. */
  async forget(id: string): Promise<void> {
    await this.#cache.remove(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#networks[Symbol.asyncDispose]();
    await this.#readiness[Symbol.asyncDispose]();
  }

  /** Waits for a place among those that run at once, and for a GC to end. Time limits begin after that. */
  #turn<T>(places: Semaphore, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return places.run(() => this.#gate.pass(work, signal), signal);
  }
}

/** Both, once both have come to their end; the first failure in their order. */
async function allSettled<A, B>(both: readonly [Promise<A>, Promise<B>]): Promise<[A, B]> {
  await Promise.allSettled(both);
  return await Promise.all(both);
}

function places({ parallel }: CniSettings): number {
  return parallel === 0 ? Number.POSITIVE_INFINITY : parallel;
}
