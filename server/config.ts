import { accessSync, constants, readdirSync, readFileSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { CriError, isErrno } from '#base/errors.ts';
import type { LogLevel } from '#base/log.ts';
import { BUILT_IN_RUNTIMES, HANDLER_SECTION, type Host, handlerKeys, type Key, keys } from './config/keys.ts';
import { type ConfigText, formatPlace, Settings } from './config/settings.ts';
import { BadValue, socketPath, type Ulimit } from './config/values.ts';
import type { ExecCpuAffinity } from './oci/exec-affinity.ts';

/** One `[runtime.runtimes.NAME]` table. */
export interface RuntimeHandler {
  /** Absolute path of the OCI runtime's binary. */
  readonly runtimePath: string;
  /** Where that runtime keeps its state; on tmpfs. Default `<runroot>/runtimes/<NAME>`. */
  readonly runtimeRoot: string;
  /** Privileged containers of this handler do not get the host's devices. Default false. */
  readonly privilegedWithoutHostDevices: boolean;
  /** Names of annotations that are passed on to it, or their beginnings with `*`. Default none. */
  readonly allowedAnnotations: readonly string[];
  /** Commands that are executed run on the first CPU of the container's cpuset. Default on all of them. */
  readonly execCpuAffinity: ExecCpuAffinity;
}

/** The daemon's whole configuration: every field set, nothing mutable. Times are in milliseconds, sizes in bytes. */
export interface Config {
  /** Images, layers, records: survives a reboot. Default `/var/lib/berth`. */
  readonly root: string;
  /** Bundles, exit files, the socket's directory: gone after a reboot. Default `/run/berth`. */
  readonly runroot: string;
  readonly logLevel: LogLevel;
  readonly api: {
    /** Path of the unix socket. Default `<runroot>/berth.sock`. */
    readonly listen: string;
    readonly grpcMaxRecvMsgSize: number;
    readonly grpcMaxSendMsgSize: number;
    /** IP address of the server for exec, attach and port-forward. Default `127.0.0.1`. */
    readonly streamAddress: string;
    /** 0 picks a free one, which is the default. */
    readonly streamPort: number;
    readonly streamEnableTls: boolean;
    /** PEM files; empty for none. The first two are there with TLS. */
    readonly streamTlsCert: string;
    readonly streamTlsKey: string;
    /** Who signs the clients' certificates; empty asks for none. */
    readonly streamTlsCa: string;
    readonly tlsMinVersion: 'VersionTLS12' | 'VersionTLS13';
    /** Default 4 hours. */
    readonly streamIdleTimeoutMs: number;
    /** Default 30,000. */
    readonly streamCreationTimeoutMs: number;
  };
  readonly runtime: {
    readonly defaultRuntime: string;
    readonly runtimes: Readonly<Record<string, RuntimeHandler>>;
    /** Resolved: where the file says nothing, `systemd` if systemd runs as init, else `cgroupfs`. */
    readonly cgroupManager: 'systemd' | 'cgroupfs';
    /** Path of the conmon binary. Default: found on PATH. */
    readonly conmon: string;
    /** The cgroup monitors are moved to: absolute below each controller, or relative to the daemon's own; empty leaves them there. */
    readonly monitorCgroup: string;
    /** Pinned namespaces lie in `netns`, `ipcns` and `utsns` below it. Default `/run`. */
    readonly namespacesDir: string;
    /** Pods get no host ports. Default false. */
    readonly disableHostportMapping: boolean;
    /** No pause process for pods that do not share a PID namespace. Default false. */
    readonly dropInfraCtr: boolean;
    /** With `CAP_`, upper case. */
    readonly defaultCapabilities: readonly string[];
    readonly defaultSysctls: Readonly<Record<string, string>>;
    /** `NAME=value`, below the image's and the request's. */
    readonly defaultEnv: readonly string[];
    /** What `setrlimit` shall say in every container. */
    readonly defaultUlimits: readonly Ulimit[];
    /** AppArmor profile of containers that ask for none; `berth-default` is loaded at start, another one has to be there. */
    readonly apparmorProfile: string;
    /** Absolute path of the profile for RuntimeDefault; empty for the built-in one. */
    readonly seccompProfile: string;
    /** Directories of OCI hook files; a file of a later one replaces its namesake. */
    readonly hooksDir: readonly string[];
    /** Directories of CDI files; the later one wins. Default `/etc/cdi`, `/var/run/cdi`. */
    readonly cdiSpecDirs: readonly string[];
    /** The devices that a container names belong to its run_as_user and run_as_group. Default false. */
    readonly deviceOwnershipFromSecurityContext: boolean;
    /** Processes a container may have; 0 sets no limit. */
    readonly pidsLimit: number;
    /** How long a creation may be in flight before it is undone. Default 240,000. */
    readonly creationTimeoutMs: number;
    /** How long what nobody has claimed is kept for a retry. Default 300,000. */
    readonly unclaimedTimeoutMs: number;
  };
  readonly image: {
    /** Image of the pause process; empty for the built-in one. */
    readonly pauseImage: string;
    /** Its command line, split at blanks; empty for the image's own. */
    readonly pauseCommand: readonly string[];
    /** Static binary of the built-in pause, run with `-P`. Default `/usr/bin/catatonit`. */
    readonly pauseBinary: string;
    /** Credentials for pulls that bring none: a `config.json`/`auth.json`; empty for none. */
    readonly globalAuthFile: string;
    readonly pauseImageAuthFile: string;
    /** `registries.conf`, version 2; its drop-ins lie in `<path>.d`. Default `/etc/containers/registries.conf`. */
    readonly registriesConf: string;
    /** What a short name means that several registries may have; empty for what `registries.conf` says, else `enforcing`. */
    readonly shortNameMode: 'enforcing' | 'permissive' | 'disabled' | '';
    /** Directories of certificates, one below them for each host. */
    readonly certsDirs: readonly string[];
    /** A `policy.json`; empty for `/etc/containers/policy.json` if it is there. */
    readonly signaturePolicy: string;
    /** Directory of `<namespace>.json`, each in its place for the pods of a namespace. */
    readonly signaturePolicyDir: string;
    readonly pinnedImages: readonly string[];
    readonly maxParallelDownloads: number;
    /** A pull that receives no byte for so long is cancelled. Default 60,000. */
    readonly pullProgressTimeoutMs: number;
  };
  readonly network: {
    /** Name of the CNI network; empty for the first valid file. */
    readonly cniDefaultNetwork: string;
    /** Networks that each pod gets beside it. */
    readonly cniAdditionalNetworks: readonly string[];
    /** Default `/etc/cni/net.d`. */
    readonly networkDir: string;
    /** Default `/opt/cni/bin`, `/usr/libexec/cni`, `/usr/lib/cni`. */
    readonly pluginDirs: readonly string[];
    /** Of the whole chain. Default 90,000. */
    readonly cniAddTimeoutMs: number;
    /** Default 60,000. */
    readonly cniDelTimeoutMs: number;
    /** A DEL that has failed for so long is given up; 0 for never. */
    readonly cniDelGiveUpMs: number;
    /** Pods whose ADD, and pods whose DEL, runs at the same time; 0 for all. Default 32. */
    readonly cniParallel: number;
    /** Default 10,000; with 0 STATUS is not asked again once it has succeeded. */
    readonly cniStatusGracePeriodMs: number;
  };
  readonly metrics: {
    readonly enableMetrics: boolean;
    readonly metricsHost: string;
    /** 0 picks a free port. Default 9090. */
    readonly metricsPort: number;
    /** Path of a unix socket to serve metrics on as well; empty for none. */
    readonly metricsSocket: string;
  };
}

export const DEFAULT_CONFIG_PATH = '/etc/berth/berth.conf';

/** One key of the effective configuration. */
export interface EffectiveValue {
  readonly section: string;
  readonly key: string;
  /** As it stands in the file; a list has any number of items. */
  readonly items: readonly string[];
  readonly list: boolean;
  /** `default`, `FILE:LINE` or `command line`. */
  readonly source: string;
  readonly doc: string;
}

export interface LoadOptions {
  /** The file that must be there; without it `/etc/berth/berth.conf`, which need not. */
  readonly path?: string | undefined;
  /** Directory of `*.conf` files read after it, in lexical order. Default: the file's path with `.d`. */
  readonly dropInDir?: string | undefined;
  /** `section.key` to value, above all files: the command line's `--set`. */
  readonly overrides?: Readonly<Record<string, string>> | undefined;
}

export interface ParseOptions {
  readonly overrides?: Readonly<Record<string, string>> | undefined;
  /** What defaults and checks ask of the machine; without it the one we run on. */
  readonly host?: Host | undefined;
}

/**
 * Reads the configuration.
 * @throws {CriError} `invalidArgument` with every problem, one per line, each with its file, line, section and key.
 */
export function loadConfig(options: LoadOptions = {}): Config {
  return loadWithValues(options).config;
}

/** The configuration, and its values as `effectiveConfig` has them. */
export interface LoadedConfig {
  readonly config: Config;
  readonly values: readonly EffectiveValue[];
}

/** Throws as `loadConfig` does. */
export function loadWithValues(options: LoadOptions = {}): LoadedConfig {
  return resolve(readFiles(options), { overrides: options.overrides });
}

/** Every key with its value and where that comes from, in the order of the sample. Throws as `loadConfig` does. */
export function effectiveConfig(options: LoadOptions = {}): readonly EffectiveValue[] {
  return loadWithValues(options).values;
}

/** The configuration that these texts make; later ones win. Throws as `loadConfig` does. */
export function parseConfig(files: readonly ConfigText[], options: ParseOptions = {}): Config {
  return parseWithValues(files, options).config;
}

/** Throws as `loadConfig` does. */
export function parseWithValues(files: readonly ConfigText[], options: ParseOptions = {}): LoadedConfig {
  return resolve(files, options);
}

/** What `parseConfig` makes of nothing on a machine with systemd and every program in /usr/bin: what the sample shows. */
export const referenceHost: Host = {
  systemd: true,
  findProgram: (name) => `/usr/bin/${name}`,
  isExecutable: () => true,
  isFile: () => true,
};

export const defaults: Config = parseConfig([], { host: referenceHost });

/** The values behind `defaults`, for the sample. */
export function defaultValues(): readonly EffectiveValue[] {
  return resolve([], { host: referenceHost }).values;
}

function resolve(files: readonly ConfigText[], { overrides = {}, host = thisHost() }: ParseOptions): LoadedConfig {
  const settings = new Settings(files, overrides);
  const values: EffectiveValue[] = [];
  let runroot = '';
  const take = <T>(section: string, key: string, { type, fallback, doc }: Key<T>): T => {
    const place = settings.placeOf(section, key);
    const value = settings.read(section, key, type) ?? fallback(host, runroot);
    values.push({ section, key, items: type.format(value), list: type.list, source: place === undefined ? 'default' : formatPlace(place), doc });
    return value;
  };
  const { berth, api, runtime, image, network, metrics } = keys;
  const root = take('berth', 'root', berth.root);
  runroot = take('berth', 'runroot', berth.runroot);
  const config: Config = {
    root,
    runroot,
    logLevel: take('berth', 'log_level', berth.log_level),
    api: {
      listen: take('api', 'listen', api.listen),
      grpcMaxRecvMsgSize: take('api', 'grpc_max_recv_msg_size', api.grpc_max_recv_msg_size),
      grpcMaxSendMsgSize: take('api', 'grpc_max_send_msg_size', api.grpc_max_send_msg_size),
      streamAddress: take('api', 'stream_address', api.stream_address),
      streamPort: take('api', 'stream_port', api.stream_port),
      streamEnableTls: take('api', 'stream_enable_tls', api.stream_enable_tls),
      streamTlsCert: take('api', 'stream_tls_cert', api.stream_tls_cert),
      streamTlsKey: take('api', 'stream_tls_key', api.stream_tls_key),
      streamTlsCa: take('api', 'stream_tls_ca', api.stream_tls_ca),
      tlsMinVersion: take('api', 'tls_min_version', api.tls_min_version),
      streamIdleTimeoutMs: take('api', 'stream_idle_timeout', api.stream_idle_timeout),
      streamCreationTimeoutMs: take('api', 'stream_creation_timeout', api.stream_creation_timeout),
    },
    runtime: {
      defaultRuntime: take('runtime', 'default_runtime', runtime.default_runtime),
      cgroupManager: take('runtime', 'cgroup_manager', runtime.cgroup_manager),
      conmon: take('runtime', 'conmon', runtime.conmon),
      monitorCgroup: take('runtime', 'conmon_cgroup', runtime.conmon_cgroup),
      namespacesDir: take('runtime', 'namespaces_dir', runtime.namespaces_dir),
      disableHostportMapping: take('runtime', 'disable_hostport_mapping', runtime.disable_hostport_mapping),
      dropInfraCtr: take('runtime', 'drop_infra_ctr', runtime.drop_infra_ctr),
      defaultCapabilities: take('runtime', 'default_capabilities', runtime.default_capabilities),
      defaultSysctls: take('runtime', 'default_sysctls', runtime.default_sysctls),
      defaultEnv: take('runtime', 'default_env', runtime.default_env),
      defaultUlimits: take('runtime', 'default_ulimits', runtime.default_ulimits),
      apparmorProfile: take('runtime', 'apparmor_profile', runtime.apparmor_profile),
      seccompProfile: take('runtime', 'seccomp_profile', runtime.seccomp_profile),
      hooksDir: take('runtime', 'hooks_dir', runtime.hooks_dir),
      cdiSpecDirs: take('runtime', 'cdi_spec_dirs', runtime.cdi_spec_dirs),
      deviceOwnershipFromSecurityContext: take('runtime', 'device_ownership_from_security_context', runtime.device_ownership_from_security_context),
      pidsLimit: take('runtime', 'pids_limit', runtime.pids_limit),
      creationTimeoutMs: take('runtime', 'creation_timeout', runtime.creation_timeout),
      unclaimedTimeoutMs: take('runtime', 'unclaimed_timeout', runtime.unclaimed_timeout),
      runtimes: takeHandlers(settings, host, take),
    },
    image: {
      pauseImage: take('image', 'pause_image', image.pause_image),
      pauseCommand: take('image', 'pause_command', image.pause_command),
      pauseBinary: take('image', 'pause_binary', image.pause_binary),
      globalAuthFile: take('image', 'global_auth_file', image.global_auth_file),
      pauseImageAuthFile: take('image', 'pause_image_auth_file', image.pause_image_auth_file),
      registriesConf: take('image', 'registries_conf', image.registries_conf),
      shortNameMode: take('image', 'short_name_mode', image.short_name_mode),
      certsDirs: take('image', 'certs_dirs', image.certs_dirs),
      signaturePolicy: take('image', 'signature_policy', image.signature_policy),
      signaturePolicyDir: take('image', 'signature_policy_dir', image.signature_policy_dir),
      pinnedImages: take('image', 'pinned_images', image.pinned_images),
      maxParallelDownloads: take('image', 'max_parallel_downloads', image.max_parallel_downloads),
      pullProgressTimeoutMs: take('image', 'pull_progress_timeout', image.pull_progress_timeout),
    },
    network: {
      cniDefaultNetwork: take('network', 'cni_default_network', network.cni_default_network),
      cniAdditionalNetworks: take('network', 'cni_additional_networks', network.cni_additional_networks),
      networkDir: take('network', 'network_dir', network.network_dir),
      pluginDirs: take('network', 'plugin_dirs', network.plugin_dirs),
      cniAddTimeoutMs: take('network', 'cni_add_timeout', network.cni_add_timeout),
      cniDelTimeoutMs: take('network', 'cni_del_timeout', network.cni_del_timeout),
      cniDelGiveUpMs: take('network', 'cni_del_give_up', network.cni_del_give_up),
      cniParallel: take('network', 'cni_parallel', network.cni_parallel),
      cniStatusGracePeriodMs: take('network', 'cni_status_grace_period', network.cni_status_grace_period),
    },
    metrics: {
      enableMetrics: take('metrics', 'enable_metrics', metrics.enable_metrics),
      metricsHost: take('metrics', 'metrics_host', metrics.metrics_host),
      metricsPort: take('metrics', 'metrics_port', metrics.metrics_port),
      metricsSocket: take('metrics', 'metrics_socket', metrics.metrics_socket),
    },
  };
  checkTogether(config, settings, host);
  settings.throwProblems();
  return { config, values };
}

type Take = <T>(section: string, key: string, spec: Key<T>) => T;

/** The built-in handlers whose program is there, and those that have a section. */
function takeHandlers(settings: Settings, host: Host, take: Take): Readonly<Record<string, RuntimeHandler>> {
  const present = BUILT_IN_RUNTIMES.filter((name) => host.findProgram(name) !== undefined);
  const handlers: Record<string, RuntimeHandler> = {};
  for (const name of new Set([...present, ...settings.handlers.keys()])) {
    const section = `${HANDLER_SECTION}${name}`;
    const specs = handlerKeys(name);
    const runtimePath = take(section, 'runtime_path', specs.runtime_path);
    if (runtimePath === '') settings.refuse(section, 'runtime_path', `there is no program ${name} on PATH`, settings.handlers.get(name));
    else if (!host.isExecutable(runtimePath)) settings.refuse(section, 'runtime_path', `${runtimePath} is not an executable file`);
    handlers[name] = {
      runtimePath,
      runtimeRoot: take(section, 'runtime_root', specs.runtime_root),
      privilegedWithoutHostDevices: take(section, 'privileged_without_host_devices', specs.privileged_without_host_devices),
      allowedAnnotations: take(section, 'allowed_annotations', specs.allowed_annotations),
      execCpuAffinity: take(section, 'exec_cpu_affinity', specs.exec_cpu_affinity),
    };
  }
  return handlers;
}

/** What no key can tell for itself. */
function checkTogether({ root, runroot, api, runtime, image }: Config, settings: Settings, host: Host): void {
  const { runtimes, defaultRuntime, conmon, seccompProfile } = runtime;
  const names = Object.keys(runtimes);
  if (names.length === 0)
    settings.refuse('runtime', 'default_runtime', `neither ${BUILT_IN_RUNTIMES.join(' nor ')} is on PATH and no [${HANDLER_SECTION}NAME] is set`);
  else if (runtimes[defaultRuntime] === undefined)
    settings.refuse('runtime', 'default_runtime', `"${defaultRuntime}" is none of the handlers ${names.join(', ')}`);
  if (!host.isExecutable(conmon)) settings.refuse('runtime', 'conmon', `${conmon} is not an executable file`);
  if (seccompProfile !== '' && !host.isFile(seccompProfile)) settings.refuse('runtime', 'seccomp_profile', `${seccompProfile} is not a file`);
  if (settings.placeOf('image', 'pause_binary') !== undefined && !host.isExecutable(image.pauseBinary)) {
    settings.refuse('image', 'pause_binary', `${image.pauseBinary} is not an executable file`);
  }
  for (const [key, file] of [
    ['stream_tls_cert', api.streamTlsCert],
    ['stream_tls_key', api.streamTlsKey],
    ['stream_tls_ca', api.streamTlsCa],
  ] as const) {
    if (file !== '' && !host.isFile(file)) settings.refuse('api', key, `${file} is not a file`);
    else if (file === '' && api.streamEnableTls && key !== 'stream_tls_ca')
      settings.refuse('api', key, 'must be set with stream_enable_tls', settings.placeOf('api', 'stream_enable_tls'));
  }
  if (root === runroot) settings.refuse('berth', 'runroot', `"${runroot}" is root as well; one survives a reboot and the other must not`);
  for (const [key, path] of [
    ['listen', api.listen],
    ['admin socket', `${runroot}/admin.sock`],
  ] as const) {
    try {
      socketPath(path);
    } catch (err) {
      if (!(err instanceof BadValue)) throw err;
      if (key === 'listen') settings.refuse('api', key, err.message, settings.placeOf('api', key) ?? settings.placeOf('berth', 'runroot'));
      else settings.refuse('berth', 'runroot', err.message);
    }
  }
}

function readFiles(options: LoadOptions): ConfigText[] {
  const { path = DEFAULT_CONFIG_PATH, dropInDir = `${path}.d` } = options;
  const read = (file: string): ConfigText => {
    try {
      return { path: file, text: readFileSync(file, 'utf8') };
    } catch (err) {
      throw new CriError('invalidArgument', `${file}: configuration cannot be read`, { cause: err });
    }
  };
  const files: ConfigText[] = [];
  if (options.path !== undefined || statSync(path, { throwIfNoEntry: false }) !== undefined) files.push(read(path));
  let names: string[] = [];
  try {
    names = readdirSync(dropInDir);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw new CriError('invalidArgument', `${dropInDir}: configuration cannot be read`, { cause: err });
  }
  // Bytewise, as `LC_ALL=C ls` shows them: the same order on every machine.
  for (const name of names.filter((file) => file.endsWith('.conf') && !file.startsWith('.')).sort()) files.push(read(join(dropInDir, name)));
  return files;
}

/** What the service manager and the caller's environment tell the daemon. */
export interface Environment {
  /** Where sd_notify(3) messages go; a path, or an abstract one that begins with `@`. */
  readonly notifySocket: string | undefined;
  /** How often systemd wants to hear from us; see sd_watchdog_enabled(3). */
  readonly watchdogMs: number | undefined;
  /** Those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY that are set, in either case. */
  readonly proxy: Readonly<Record<string, string>>;
  /** Directories that programs are looked for in. */
  readonly path: readonly string[];
}

/** The only look at the environment. An empty variable counts as none, and so does a watchdog meant for another process. */
export function readEnvironment(env: NodeJS.ProcessEnv = process.env, pid = process.pid): Environment {
  const usec = Number(env.WATCHDOG_USEC);
  const meant = env.WATCHDOG_PID === undefined || Number(env.WATCHDOG_PID) === pid;
  return {
    notifySocket: env.NOTIFY_SOCKET || undefined,
    watchdogMs: meant && usec > 0 ? usec / 1_000 : undefined,
    proxy: proxyVariables(env),
    path: (env.PATH || '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin').split(delimiter).filter((dir) => dir.startsWith('/')),
  };
}

/** The variables that may name a proxy, in either case: nothing else of the environment goes to where pulls run. */
function proxyVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  const names = ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY'].flatMap((name) => [name, name.toLowerCase()]);
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}

function thisHost(): Host {
  const isFile = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  const isExecutable = (path: string): boolean => {
    try {
      accessSync(path, constants.X_OK);
      return isFile(path);
    } catch {
      return false;
    }
  };
  const { path } = readEnvironment();
  return {
    systemd: statSync('/run/systemd/system', { throwIfNoEntry: false })?.isDirectory() === true,
    findProgram: (name) => path.map((dir) => join(dir, name)).find(isExecutable),
    isExecutable,
    isFile,
  };
}
