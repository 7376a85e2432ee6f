import type { LogLevel } from '#base/log.ts';
import { readFiles } from './config/files.ts';
import { type Host, thisHost } from './config/host.ts';
import { resolve } from './config/resolve.ts';
import type { ConfigText } from './config/settings.ts';
import type { Ulimit } from './config/values.ts';
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
  /** Smaller memory limits of containers are refused; 0 takes any. Default as `handlerKeys` has it. */
  readonly containerMinMemoryBytes: number;
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
    /** Containers get SELinux labels where the kernel has SELinux. Default true. */
    readonly selinux: boolean;
    /** Pods on the node's network are not confined by SELinux. Default true. */
    readonly hostnetworkDisableSelinux: boolean;
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
  return parseWithValues(readFiles(options), { overrides: options.overrides });
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
export function parseWithValues(files: readonly ConfigText[], { overrides = {}, host = thisHost() }: ParseOptions = {}): LoadedConfig {
  return resolve(files, overrides, host);
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
  return parseWithValues([], { host: referenceHost }).values;
}
