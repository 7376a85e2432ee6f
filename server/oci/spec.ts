/**
 * The parts of an OCI runtime `config.json` that Berth writes. Source: runtime-spec 1.0.2, config.md and
 * config-linux.md, which is what crun 1.8 and runc 1.1 know.
 */
export interface OciSpec {
  readonly ociVersion: '1.0.2';
  readonly process: OciProcess;
  readonly root: { readonly path: string; readonly readonly: boolean };
  readonly hostname?: string;
  readonly mounts: readonly OciMount[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly hooks?: OciHooks;
  readonly linux: OciLinux;
}

/** When a hook runs. Source: runtime-spec config.md, POSIX-platform Hooks. */
export type HookStage = 'prestart' | 'createRuntime' | 'createContainer' | 'startContainer' | 'poststart' | 'poststop';

export type OciHooks = Readonly<Partial<Record<HookStage, readonly OciHook[]>>>;

export interface OciHook {
  /** Absolute. */
  readonly path: string;
  /** With argv[0]. */
  readonly args?: readonly string[];
  /** `NAME=value`. */
  readonly env?: readonly string[];
  /** Seconds. */
  readonly timeout?: number;
}

export interface OciProcess {
  readonly terminal: boolean;
  readonly user: OciUser;
  readonly args: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  readonly cwd: string;
  readonly capabilities: OciCapabilities;
  readonly noNewPrivileges: boolean;
  readonly oomScoreAdj: number;
  readonly apparmorProfile?: string;
  /** SELinux context. */
  readonly selinuxLabel?: string;
  readonly rlimits?: readonly OciRlimit[];
}

/** `RLIMIT_NOFILE` and its like. */
export interface OciRlimit {
  readonly type: string;
  readonly hard: number;
  readonly soft: number;
}

export interface OciUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

/** Names begin with `CAP_`. */
export interface OciCapabilities {
  readonly bounding: readonly string[];
  readonly effective: readonly string[];
  readonly permitted: readonly string[];
  readonly inheritable: readonly string[];
  readonly ambient: readonly string[];
}

export interface OciMount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
  /** An idmapped mount, since runtime-spec 1.0.3. */
  readonly uidMappings?: readonly OciIdMapping[];
  readonly gidMappings?: readonly OciIdMapping[];
}

export interface OciIdMapping {
  readonly containerID: number;
  readonly hostID: number;
  readonly size: number;
}

export interface OciLinux {
  readonly namespaces: readonly OciNamespace[];
  readonly cgroupsPath: string;
  readonly resources: OciResources;
  readonly devices?: readonly OciDevice[];
  readonly maskedPaths?: readonly string[];
  readonly readonlyPaths?: readonly string[];
  readonly rootfsPropagation?: 'rshared' | 'rslave';
  readonly seccomp?: SeccompProfile;
  /** SELinux context of the file systems that the runtime mounts, where they can have one. */
  readonly mountLabel?: string;
  readonly intelRdt?: Readonly<Record<string, unknown>>;
  /** Since runtime-spec 1.3; see `RuntimeFeatures.netDevices`. */
  readonly netDevices?: OciNetDevices;
}

/** Interfaces of the node that move into the container's network namespace, each with its name there. */
export type OciNetDevices = Readonly<Record<string, { readonly name: string }>>;

export interface OciNamespace {
  readonly type: 'pid' | 'network' | 'mount' | 'ipc' | 'uts' | 'cgroup' | 'user';
  /** A namespace to join; a new one without it. A user namespace is joined as it is: `linux.uidMappings` are for new ones. */
  readonly path?: string;
}

/** Sizes in bytes, times in microseconds. Also what `crun update` and `runc update` read with `--resources`. */
export interface OciResources {
  readonly devices?: readonly OciDeviceRule[];
  readonly memory?: { readonly limit?: number; readonly swap?: number };
  readonly cpu?: { readonly shares?: number; readonly quota?: number; readonly period?: number; readonly cpus?: string; readonly mems?: string };
  readonly pids?: { readonly limit: number };
  readonly hugepageLimits?: readonly { readonly pageSize: string; readonly limit: number }[];
  readonly unified?: Readonly<Record<string, string>>;
}

export interface OciDeviceRule {
  readonly allow: boolean;
  readonly type?: 'b' | 'c';
  readonly major?: number;
  readonly minor?: number;
  /** Of the letters `rwm`. */
  readonly access: string;
}

export interface OciDevice {
  readonly path: string;
  readonly type: 'b' | 'c';
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface SeccompArgument {
  readonly index: number;
  readonly value: number;
  readonly valueTwo?: number;
  /** `SCMP_CMP_…` */
  readonly op: string;
}

export interface SeccompRule {
  readonly names: readonly string[];
  /** `SCMP_ACT_…` */
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly SeccompArgument[];
}

/** `linux.seccomp`: one filter for one container, nothing conditional left in it. */
export interface SeccompProfile {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number;
  readonly architectures?: readonly string[];
  readonly flags?: readonly string[];
  readonly syscalls?: readonly SeccompRule[];
}
