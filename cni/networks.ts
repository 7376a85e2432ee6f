import { basename } from 'node:path';
import { DirectoryWatch } from '#base/directory-watch.ts';
import type { Log } from '#base/log.ts';
import type { NetworkConf } from './conf.ts';
import { findPlugin, type Inventory, type Network, takeInventory } from './load.ts';
import type { PluginVersions } from './versions.ts';

export interface NetworksOptions {
  readonly networkDir: string;
  readonly pluginDirs: readonly string[];
  /** Empty for the first network by file name. */
  readonly defaultNetwork: string;
  /** Names of the networks that each pod gets beside it. */
  readonly additionalNetworks?: readonly string[];
  readonly log: Log;
  /** Without it plugins are not asked for their versions. */
  readonly versions?: Pick<PluginVersions, 'of'>;
}

/** The networks that pods get now, the default one first, or why there are none. */
export type Choice =
  | { readonly network: Network; readonly networks: readonly [Network, ...Network[]]; readonly why?: undefined }
  | { readonly network?: undefined; readonly networks?: undefined; readonly why: string };

/** The node's networks as its files have them, kept up to date in memory. */
export class Networks implements AsyncDisposable {
  #options: NetworksOptions;
  readonly #watch: DirectoryWatch;
  #inventory: Inventory = { networks: [], problems: [], unreadable: 'not read yet', plugins: new Map() };
  #choice: Choice = { why: 'not read yet' };
  #turn: Promise<void> = Promise.resolve();
  #queued: Promise<void> | undefined;
  #closed = false;
  #onLook: () => void = () => {};

  private constructor(options: NetworksOptions) {
    this.#options = options;
    this.#watch = new DirectoryWatch([options.networkDir, ...options.pluginDirs], { onChange: () => void this.reload(), log: options.log });
  }

  static async open(options: NetworksOptions): Promise<Networks> {
    const networks = new Networks(options);
    await networks.reload();
    return networks;
  }

  get choice(): Choice {
    return this.#choice;
  }

  get inventory(): Inventory {
    return this.#inventory;
  }

  /** Calls `listener`, the one that there is, after each look at the files. */
  onLook(listener: () => void): void {
    this.#onLook = listener;
  }

  /** Takes other names of networks and looks again. */
  async configure(names: Pick<NetworksOptions, 'defaultNetwork' | 'additionalNetworks'>): Promise<void> {
    this.#options = { ...this.#options, ...names };
    await this.reload();
  }

  /** The choice as the files have it now: looks again where there is none, or a change was seen and not yet looked at. */
  async fresh(): Promise<Choice> {
    if (this.#choice.network === undefined || this.#watch.pending || this.#queued !== undefined) await this.reload();
    return this.#choice;
  }

  /** A plugin's binary, from memory where it is known. */
  async pluginPath(type: string): Promise<string> {
    return this.#inventory.plugins.get(type) ?? (await findPlugin(type, this.#options.pluginDirs));
  }

  /** Looks at the files again, after this call began. Never rejects: what is wrong is part of the inventory. */
  reload(): Promise<void> {
    this.#queued ??= this.#turn.then(async () => {
      this.#queued = undefined; // whoever asks from here on may know of a later change
      if (!this.#closed) await this.#load();
    });
    this.#turn = this.#queued;
    return this.#queued;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#watch[Symbol.dispose]();
    await this.#turn;
  }

  async #load(): Promise<void> {
    const { networkDir, pluginDirs, log, versions } = this.#options;
    try {
      this.#watch.arm();
      const inventory = await takeInventory(networkDir, pluginDirs, versions);
      const choice = chooseNetwork(inventory, networkDir, this.#options);
      const [before, chosenBefore] = [this.#inventory, this.#choice];
      this.#inventory = inventory;
      this.#choice = choice;
      for (const { file, reason } of inventory.problems) {
        if (!before.problems.some((old) => old.file === file && old.reason === reason)) log.warn({ path: file, reason }, 'Passed over CNI configuration file');
      }
      if (choice.network === undefined) {
        if (choice.why !== chosenBefore.why) log.warn({ reason: choice.why }, 'Found no usable pod network');
      } else if (!sameNetwork(choice.network, chosenBefore.network)) {
        log.info({ network: choice.network.conf.name, path: choice.network.file }, 'Chose pod network');
      }
    } catch (err) {
      this.#choice = { why: `CNI configuration could not be read: ${err instanceof Error ? err.message : String(err)}` };
      log.error({ err }, 'Could not read CNI configuration');
    }
    this.#onLook();
  }
}

/**
 * The default network: by name, else the first by file name. One whose plugin is missing is not skipped for the next:
 * while a network provider installs itself, pods would silently land on another network. A network of `loopback` alone
 * counts only when it is asked for by name: the server brings lo up itself, and such a pod would have no address.
 */
export function chooseNetwork(
  { networks, problems, unreadable }: Inventory,
  networkDir: string,
  { defaultNetwork, additionalNetworks = [] }: Pick<NetworksOptions, 'defaultNetwork' | 'additionalNetworks'>,
): Choice {
  if (unreadable !== undefined) return { why: unreadable };
  const bad = problems.map(({ file, reason }) => `${basename(file)}: ${reason}`).join('; ');
  const absent = (what: string): Choice => ({ why: bad === '' ? what : `${what}; ${bad}` });
  const byName = (name: string): Network | undefined => networks.find(({ conf }) => conf.name === name);
  const notThere = (name: string): string => `network ${name} is not in ${networkDir}, which has ${networks.map(({ conf }) => conf.name).join(', ') || 'none'}`;
  const network = defaultNetwork === '' ? networks.find(({ conf }) => !isLoopback(conf)) : byName(defaultNetwork);
  if (network === undefined) {
    if (defaultNetwork !== '') return absent(notThere(defaultNetwork));
    return absent(`no ${networks.length === 0 ? '' : 'other than a loopback '}network in ${networkDir} (looked for *.conf, *.conflist, *.json)`);
  }
  const more: Network[] = [];
  for (const name of additionalNetworks) {
    const found = byName(name);
    if (found === undefined) return absent(notThere(name));
    if (found !== network && !more.includes(found)) more.push(found);
  }
  for (const { conf, file, missing } of [network, ...more]) if (missing.length > 0) return { why: `network ${conf.name} (${file}): ${missing.join('; ')}` };
  return { network, networks: [network, ...more] };
}

function isLoopback(conf: NetworkConf): boolean {
  return conf.plugins.every(({ type }) => type === 'loopback');
}

function sameNetwork(one: Network, other: Network | undefined): boolean {
  return other !== undefined && one.file === other.file && JSON.stringify(one.conf) === JSON.stringify(other.conf);
}
