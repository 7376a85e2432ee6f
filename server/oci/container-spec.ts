import type { ContainerConfig, PodSandboxConfig } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';
import type { MountFeatures, ResolvedMount } from './mounts.ts';
import type { ImageVolume } from './rootfs.ts';
import type { OciDevice, OciSpec, SeccompProfile } from './spec.ts';
import type { ResolvedUser } from './user.ts';

/** What an image says about its process. */
export interface ImageConfig {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  /** `name`, `uid`, `name:group`, `uid:gid` or empty. */
  readonly user: string;
  readonly workingDir: string;
  readonly stopSignal: string;
  readonly volumes: readonly string[];
}

/** The pod's side of a container. */
export interface SandboxFacts {
  readonly id: string;
  readonly config: PodSandboxConfig;
  /** Paths to join; `undefined` where the container shares the node's. `pid` is the pod's (mode POD) or the target's (TARGET). */
  readonly namespaces: {
    readonly network?: string | undefined;
    readonly ipc?: string | undefined;
    readonly uts?: string | undefined;
    readonly pid?: string | undefined;
  };
  /** The node's for a pod on the host's network. */
  readonly hostname: string;
  /** Host paths of the files and the directory that every container of the pod gets. */
  readonly resolvConf: string;
  readonly hostnameFile: string;
  /** The pod's /dev/shm; the host's own for ipc NODE. `undefined` gives the container one of its own. */
  readonly shmDir: string | undefined;
}

export interface ContainerDefaults {
  readonly defaultCapabilities: readonly string[];
  readonly defaultEnv: readonly string[];
  /** Absolute path, empty for the built-in profile. */
  readonly seccompProfile: string;
  /** 0 for none. */
  readonly pidsLimit: number;
}

export interface ContainerSpecInput {
  readonly id: string;
  /** Has passed `validateContainerConfig`. */
  readonly config: ContainerConfig;
  readonly sandbox: SandboxFacts;
  readonly image: ImageConfig;
  /** The mounted root file system. */
  readonly rootfs: string;
  readonly cgroupsPath: string;
  readonly host: HostFacts;
  readonly defaults: ContainerDefaults;
  readonly privilegedWithoutHostDevices: boolean;
  readonly features: MountFeatures;
}

/** What had to be looked up on the host and in the rootfs. */
export interface ResolvedContainer {
  readonly user: ResolvedUser;
  readonly mounts: readonly ResolvedMount[];
  readonly devices: readonly OciDevice[];
  readonly seccomp: SeccompProfile | undefined;
  readonly volumes: readonly ImageVolume[];
}

export interface BuiltSpec {
  readonly spec: OciSpec;
  /** Asked for, known, but not in the daemon's bounding set. */
  readonly droppedCapabilities: readonly string[];
  /** Set when oom_score_adj could not be as low as asked. */
  readonly clampedOomScoreAdj: { readonly asked: number; readonly given: number } | undefined;
}

/** Looks up everything of a request that lies outside it, and prepares the rootfs (working directory, volumes, passwd entries). */
export function resolveContainer(_input: ContainerSpecInput): Promise<ResolvedContainer> {
  throw new Error('not written yet');
}

/** The OCI spec of a container. Pure. */
export function buildContainerSpec(_input: ContainerSpecInput, _resolved: ResolvedContainer): BuiltSpec {
  throw new Error('not written yet');
}

/** The command line: command replaces the image's entrypoint and cmd, args alone replace its cmd. */
export function containerArgs(_config: ContainerConfig, _image: ImageConfig): readonly string[] {
  throw new Error('not written yet');
}
