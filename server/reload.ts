import type { Log } from '#base/log.ts';
import type { Config, EffectiveValue, LoadedConfig } from './config.ts';

/**
 * Makes one part ready for another configuration. Nothing may have changed until the function that it gives is called,
 * which must not fail.
 */
export type PrepareReload = (next: Config, before: Config) => (() => void) | Promise<() => void>;

type Take = (into: Config, from: Config) => Config;

const runtime =
  (key: keyof Config['runtime']): Take =>
  (into, from) => ({ ...into, runtime: { ...into.runtime, [key]: from.runtime[key] } });
const image =
  (key: keyof Config['image']): Take =>
  (into, from) => ({ ...into, image: { ...into.image, [key]: from.image[key] } });
const network =
  (key: keyof Config['network']): Take =>
  (into, from) => ({ ...into, network: { ...into.network, [key]: from.network[key] } });

/**
 * The keys that take effect while the daemon runs: those whose readers look at the configuration at each use, or have a
 * `PrepareReload`. Pods and containers that exist keep what they were made with. Every other key waits for a restart.
 */
const RELOADABLE: Readonly<Record<string, Take>> = {
  'berth.log_level': (into, from) => ({ ...into, logLevel: from.logLevel }),
  'runtime.drop_infra_ctr': runtime('dropInfraCtr'),
  'runtime.default_capabilities': runtime('defaultCapabilities'),
  'runtime.default_sysctls': runtime('defaultSysctls'),
  'runtime.default_env': runtime('defaultEnv'),
  'runtime.default_ulimits': runtime('defaultUlimits'),
  'runtime.hooks_dir': runtime('hooksDir'),
  'runtime.cdi_spec_dirs': runtime('cdiSpecDirs'),
  'runtime.device_ownership_from_security_context': runtime('deviceOwnershipFromSecurityContext'),
  'runtime.hostnetwork_disable_selinux': runtime('hostnetworkDisableSelinux'),
  'runtime.seccomp_profile': runtime('seccompProfile'),
  'runtime.pids_limit': runtime('pidsLimit'),
  'runtime.unclaimed_timeout': runtime('unclaimedTimeoutMs'),
  'runtime.disable_hostport_mapping': runtime('disableHostportMapping'),
  'image.pause_image': image('pauseImage'),
  'image.pause_command': image('pauseCommand'),
  'image.global_auth_file': image('globalAuthFile'),
  'image.pause_image_auth_file': image('pauseImageAuthFile'),
  'image.registries_conf': image('registriesConf'),
  'image.short_name_mode': image('shortNameMode'),
  'image.signature_policy': image('signaturePolicy'),
  'image.signature_policy_dir': image('signaturePolicyDir'),
  'image.pinned_images': image('pinnedImages'),
  'image.max_parallel_downloads': image('maxParallelDownloads'),
  'image.pull_progress_timeout': image('pullProgressTimeoutMs'),
  'network.cni_default_network': network('cniDefaultNetwork'),
  'network.cni_additional_networks': network('cniAdditionalNetworks'),
  'network.cni_add_timeout': network('cniAddTimeoutMs'),
  'network.cni_del_timeout': network('cniDelTimeoutMs'),
  'network.cni_del_give_up': network('cniDelGiveUpMs'),
  'network.cni_parallel': network('cniParallel'),
  'network.cni_status_grace_period': network('cniStatusGracePeriodMs'),
};

/** Each as `section.key`. */
export const reloadableKeys: readonly string[] = Object.keys(RELOADABLE);

/** The configuration in force, and the way to another one: all of a change that can take effect does, or none of it. */
export class LiveConfig {
  readonly #load: () => LoadedConfig;
  readonly #log: Log;
  readonly #prepare: PrepareReload[] = [];
  #config: Config;
  /** `section.key` to its value as text. */
  #values: ReadonlyMap<string, string>;
  #reloading: Promise<unknown> = Promise.resolve();

  constructor(loaded: LoadedConfig, { load, log }: { load: () => LoadedConfig; log: Log }) {
    this.#config = loaded.config;
    this.#values = texts(loaded.values);
    this.#load = load;
    this.#log = log;
  }

  /** Whoever keeps it has what was in force then. */
  get current(): Config {
    return this.#config;
  }

  /** Calls `prepare` at each reload, in the order in which they were given. */
  onReload(prepare: PrepareReload): void {
    this.#prepare.push(prepare);
  }

  /** Reads the files again, those that the configuration names too. Never rejects: what is wrong is logged, and nothing has changed then. */
  reload(): Promise<void> {
    const turn = this.#reloading.then(() => this.#reload());
    this.#reloading = turn;
    return turn;
  }

  async #reload(): Promise<void> {
    try {
      const { config, values } = this.#load();
      const changed = values.filter(({ section, key, items }) => this.#values.get(`${section}.${key}`) !== items.join('\n'));
      const [now, later] = [changed.filter(isReloadable), changed.filter((value) => !isReloadable(value))];
      const before = this.#config;
      const next = now.reduce((into, { section, key }) => RELOADABLE[`${section}.${key}`]?.(into, config) ?? into, before);
      const commits: (() => void)[] = [];
      for (const prepare of this.#prepare) commits.push(await prepare(next, before));
      this.#config = next;
      this.#values = new Map([...this.#values, ...texts(now)]);
      for (const commit of commits) commit();
      this.#log.info({ count: now.length, reason: describe(now) }, 'Reloaded configuration');
      if (later.length > 0) this.#log.warn({ count: later.length, reason: describe(later) }, 'Changed configuration waits for a restart');
    } catch (err) {
      this.#log.error({ err }, 'Could not reload configuration and has changed nothing');
    }
  }
}

function isReloadable({ section, key }: EffectiveValue): boolean {
  return Object.hasOwn(RELOADABLE, `${section}.${key}`);
}

function texts(values: readonly EffectiveValue[]): Map<string, string> {
  return new Map(values.map(({ section, key, items }) => [`${section}.${key}`, items.join('\n')]));
}

/** Each key with where its value comes from. */
function describe(values: readonly EffectiveValue[]): string {
  return values.map(({ section, key, source }) => `[${section}] ${key} (${source})`).join(', ');
}
