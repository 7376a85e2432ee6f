import type { ContainerConfig, PodSandboxConfig } from '../../proto/cri.ts';
import type { ImageConfig as StoredImageConfig } from '../../storage/storage.ts';
import { resolveCapabilities } from './capabilities.ts';
import type { CdiEdits } from './cdi.ts';
import type { ResolvedDevice } from './devices.ts';
import type { HostFacts } from './host-facts.ts';
import { type IdMaps, userNamespaceOf } from './id-mapping.ts';
import type { MountFeatures, ResolvedMount } from './mounts.ts';
import type { ImageVolume } from './rootfs.ts';
import type { ContainerLabels } from './selinux-label.ts';
import type { OciRlimit, SeccompProfile } from './spec.ts';
import type { ResolvedUser } from './user.ts';

/** What an image says about its process. */
export type ImageConfig = Omit<StoredImageConfig, 'labels'>;

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
    readonly user?: string | undefined;
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
  readonly defaultUlimits: readonly OciRlimit[];
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
  /** Of the pod's and the container's, those that the handler passes on; see `allowedAnnotations`. */
  readonly allowedAnnotations: readonly string[];
  readonly features: MountFeatures & {
    /** The OCI runtime knows `linux.netDevices`. */
    readonly netDevices: boolean;
  };
  /** Host paths of the images that the request mounts, by the mount's place in the list. */
  readonly imageSources: ReadonlyMap<number, string>;
  /** The container's user owns the devices that the request names. */
  readonly deviceOwnership: boolean;
  /** Absent where containers are not labelled. */
  readonly labels?: ContainerLabels | undefined;
  /** Where CDI specs are looked for; the later directory wins. */
  readonly cdiSpecDirs: readonly string[];
}

/** What had to be looked up on the host and in the rootfs. */
export interface ResolvedContainer {
  readonly user: ResolvedUser;
  readonly mounts: readonly ResolvedMount[];
  readonly devices: readonly ResolvedDevice[];
  readonly seccomp: SeccompProfile | undefined;
  readonly volumes: readonly ImageVolume[];
  readonly cdi: CdiEdits;
}

/** Where the fields are that most of a spec depends on, for messages. */
export const SECURITY = 'config.linux.security_context';

/** The pod's id mappings, where it has a user namespace of its own. */
export function idMapsOf({ sandbox }: ContainerSpecInput): IdMaps | undefined {
  return userNamespaceOf(sandbox.config.linux?.security_context?.namespace_options);
}

export function capabilitiesOf({ config, defaults, host }: ContainerSpecInput): ReturnType<typeof resolveCapabilities> {
  const security = config.linux?.security_context ?? null;
  return resolveCapabilities(security?.capabilities ?? null, security?.privileged ?? false, defaults.defaultCapabilities, host);
}
