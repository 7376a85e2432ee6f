import { posix } from 'node:path';
import { CriError } from '#base/errors.ts';
import { type ContainerConfig, NamespaceMode, type PodSandboxConfig } from '../../proto/cri.ts';
import { allowedAnnotations } from './annotations.ts';
import { resolveCapabilities } from './capabilities.ts';
import { type CdiEdits, ownedByDefault, resolveCdi } from './cdi.ts';
import { cgroupAnnotations } from './cgroup-path.ts';
import { bindMount, defaultMounts, mergeMounts } from './default-mounts.ts';
import { deviceRules, hostDevices, ownedBy, type ResolvedDevice, resolveDevices } from './devices.ts';
import { buildEnvironment } from './environment.ts';
import { groupHooks } from './hooks.ts';
import type { HostFacts } from './host-facts.ts';
import { hostId, hostRoot, type IdMaps, toOciMappings, userNamespaceOf } from './id-mapping.ts';
import { appArmorProfile } from './lsm.ts';
import { type MountFeatures, type ResolvedMount, resolveMounts } from './mounts.ts';
import { joinedNamespaces, pidMode } from './namespaces.ts';
import { clampOomScore } from './oom-score.ts';
import { toOciResources } from './resources.ts';
import { ensureDirectory, ensureVolumes, type ImageVolume, replaceEtcFile } from './rootfs.ts';
import { loadSeccompProfile, seccompChoice } from './seccomp.ts';
import type { OciLinux, OciMount, OciNamespace, OciProcess, OciResources, OciRlimit, OciSpec, SeccompProfile } from './spec.ts';
import { type ResolvedUser, resolveUser } from './user.ts';

/** What an image says about its process. */
export interface ImageConfig {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  /** `name`, `uid`, `name:group`, `uid:gid` or empty. */
  readonly user: string;
  readonly workingDir: string;
  /** See `stopSignalNumber`. */
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
  readonly features: MountFeatures;
  /** Host paths of the images that the request mounts, by the mount's place in the list. */
  readonly imageSources: ReadonlyMap<number, string>;
  /** The container's user owns the devices that the request names. */
  readonly deviceOwnership: boolean;
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

export interface BuiltSpec {
  readonly spec: OciSpec;
  /** Asked for by name, but not the daemon's to give. */
  readonly droppedCapabilities: readonly string[];
  /** Set when oom_score_adj could not be as low as asked. */
  readonly clampedOomScoreAdj: { readonly asked: number; readonly given: number } | undefined;
}

const SECURITY = 'config.linux.security_context';

/**
 * Looks up what of a request lies outside it, then makes in the rootfs what the container needs there: its working
 * directory, the image's volumes, a passwd line for its user. Makes missing mount sources on the host.
 * @throws {CriError} naming the field.
 */
export async function resolveContainer(input: ContainerSpecInput): Promise<ResolvedContainer> {
  const { config, image, rootfs } = input;
  const security = config.linux?.security_context ?? null;
  const allDevices = security?.privileged === true && !input.privilegedWithoutHostDevices;
  const [user, mounts, requestedDevices, nodeDevices, seccomp, cdi] = await Promise.all([
    resolveUser(rootfs, image.user, security),
    resolveMounts(config.mounts, input.features, input.imageSources),
    resolveDevices(config.devices),
    allDevices ? hostDevices() : [],
    loadSeccomp(input),
    resolveCdi(config, input.cdiSpecDirs),
  ]);
  const owned = input.deviceOwnership ? requestedDevices.map((device) => ownedBy(device, security)) : requestedDevices;
  const devices = mergeDevices([nodeDevices, owned, cdi.devices.map((device) => ownedByDefault(device, user))]);
  const idMaps = idMapsOf(input);
  if (idMaps !== undefined) checkMapped(user, idMaps);
  const owner = hostRoot(idMaps);
  ensureDirectory(rootfs, workingDirectory(config, image), owner);
  const volumes = ensureVolumes(rootfs, image.volumes, owner);
  if (user.newPasswd !== undefined) replaceEtcFile(rootfs, 'passwd', user.newPasswd, owner);
  if (user.newGroup !== undefined) replaceEtcFile(rootfs, 'group', user.newGroup, owner);
  return { user, mounts, devices, seccomp, volumes, cdi };
}

/** @throws {CriError} `invalidArgument` for a user or group that the pod's user namespace does not have. */
function checkMapped({ uid, gid, additionalGids }: ResolvedUser, { uids, gids }: IdMaps): void {
  if (hostId(uids, uid) === undefined) throw new CriError('invalidArgument', `${SECURITY}.run_as_user: ${uid} is not mapped in the pod's user namespace`);
  const group = [gid, ...additionalGids].find((id) => hostId(gids, id) === undefined);
  if (group !== undefined) throw new CriError('invalidArgument', `${SECURITY}: group ${group} is not mapped in the pod's user namespace`);
}

/** What is named later takes the place of what has the same path. */
function mergeDevices(lists: readonly (readonly ResolvedDevice[])[]): readonly ResolvedDevice[] {
  return [...new Map(lists.flat().map((device) => [device.device.path, device])).values()];
}

function idMapsOf({ sandbox }: ContainerSpecInput): IdMaps | undefined {
  return userNamespaceOf(sandbox.config.linux?.security_context?.namespace_options);
}

/** The OCI spec of a container. Pure. */
export function buildContainerSpec(input: ContainerSpecInput, resolved: ResolvedContainer): BuiltSpec {
  const { config, host, rootfs } = input;
  const security = config.linux?.security_context ?? null;
  const capabilities = capabilitiesOf(input);
  const askedScore = Number(config.linux?.resources?.oom_score_adj ?? 0);
  const oomScoreAdj = clampOomScore(askedScore, host);
  const apparmor = security?.privileged === true ? unconfined(host) : appArmorProfile(SECURITY, security, host);
  const process: OciProcess = {
    terminal: config.tty,
    user: { uid: resolved.user.uid, gid: resolved.user.gid, additionalGids: [...new Set([...resolved.user.additionalGids, ...resolved.cdi.additionalGids])] },
    args: containerArgs(config, input.image),
    env: buildEnvironment({
      defaults: input.defaults.defaultEnv,
      image: input.image.env,
      request: config.envs,
      hostname: input.sandbox.hostname,
      home: resolved.user.home,
      tty: config.tty,
      devices: resolved.cdi.env,
    }),
    cwd: workingDirectory(config, input.image),
    capabilities: capabilities.sets,
    noNewPrivileges: security?.no_new_privs ?? false,
    oomScoreAdj,
    ...(apparmor === undefined ? {} : { apparmorProfile: apparmor }),
    ...(input.defaults.defaultUlimits.length === 0 ? {} : { rlimits: input.defaults.defaultUlimits }),
  };
  const annotations = {
    ...allowedAnnotations({ ...input.sandbox.config.annotations, ...config.annotations }, input.allowedAnnotations),
    ...cgroupAnnotations(input.cgroupsPath).annotations,
  };
  const spec: OciSpec = {
    ociVersion: '1.0.2',
    process,
    root: { path: rootfs, readonly: security?.readonly_rootfs ?? false },
    // Joined UTS namespaces have their name already; runtimes that are no containers (Kata, gVisor) learn it here.
    ...(input.sandbox.namespaces.uts === undefined ? {} : { hostname: input.sandbox.hostname }),
    mounts: containerMounts(input, resolved),
    ...(resolved.cdi.hooks.length === 0 ? {} : { hooks: groupHooks(resolved.cdi.hooks) }),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
    linux: containerLinux(input, resolved),
  };
  return {
    spec,
    droppedCapabilities: capabilities.dropped,
    clampedOomScoreAdj: oomScoreAdj === askedScore ? undefined : { asked: askedScore, given: oomScoreAdj },
  };
}

/**
 * The command line: command replaces the image's entrypoint and cmd, args alone replace its cmd.
 * @throws {CriError} `invalidArgument` when neither says what to run.
 */
export function containerArgs(config: Pick<ContainerConfig, 'command' | 'args'>, image: Pick<ImageConfig, 'entrypoint' | 'cmd'>): readonly string[] {
  const args = config.command.length > 0 ? [...config.command, ...config.args] : [...image.entrypoint, ...(config.args.length > 0 ? config.args : image.cmd)];
  if (args[0] === undefined || args[0] === '') throw new CriError('invalidArgument', 'config.command: is empty, and the image names no command either');
  return args;
}

/** The request's, else the image's, else `/`; always absolute. */
export function workingDirectory(config: Pick<ContainerConfig, 'working_dir'>, image: Pick<ImageConfig, 'workingDir'>): string {
  return posix.resolve('/', config.working_dir === '' ? image.workingDir : config.working_dir);
}

function capabilitiesOf({ config, defaults, host }: ContainerSpecInput): ReturnType<typeof resolveCapabilities> {
  const security = config.linux?.security_context ?? null;
  return resolveCapabilities(security?.capabilities ?? null, security?.privileged ?? false, defaults.defaultCapabilities, host);
}

async function loadSeccomp(input: ContainerSpecInput): Promise<SeccompProfile | undefined> {
  const security = input.config.linux?.security_context ?? null;
  if (security?.privileged === true) return undefined;
  return await loadSeccompProfile({
    choice: seccompChoice(SECURITY, security),
    capabilities: capabilitiesOf(input).sets.bounding,
    host: input.host,
    defaultProfile: input.defaults.seccompProfile,
  });
}

/** Written out, because a child otherwise keeps the daemon's own profile. */
function unconfined(host: HostFacts): string | undefined {
  return host.apparmor ? 'unconfined' : undefined;
}

function containerMounts(input: ContainerSpecInput, { mounts, volumes, cdi, devices }: ResolvedContainer): readonly OciMount[] {
  const { config, sandbox } = input;
  const security = config.linux?.security_context;
  const readonlyRootfs = security?.readonly_rootfs ?? false;
  const defaults = defaultMounts({
    privileged: security?.privileged ?? false,
    readonlyRootfs,
    resolvConf: sandbox.resolvConf,
    hostnameFile: sandbox.hostnameFile,
    shmDir: sandbox.shmDir,
    hostNetwork: sandbox.namespaces.network === undefined,
    boundFromHost: idMapsOf(input) === undefined ? [] : sharedWithHost(input),
  });
  const requested = [...mounts.map(toOciMount), ...cdi.mounts, ...(idMapsOf(input) === undefined ? [] : devices.filter(isNotDefault).map(deviceMount))];
  return mergeMounts([...defaults, ...(readonlyRootfs ? volumeMounts(volumes) : [])], requested);
}

function sharedWithHost({ config, sandbox }: ContainerSpecInput): readonly ('proc' | 'sys' | 'mqueue')[] {
  const { network, ipc } = sandbox.namespaces;
  return [
    ...(pidMode(config, sandbox.config) === NamespaceMode.NODE ? (['proc'] as const) : []),
    ...(network === undefined ? (['sys'] as const) : []),
    ...(ipc === undefined ? (['mqueue'] as const) : []),
  ];
}

/** Those that every OCI runtime makes by itself. Source: runtime-spec config-linux.md, Default Devices. */
const DEFAULT_DEVICES: readonly string[] = ['null', 'zero', 'full', 'random', 'urandom', 'tty', 'console', 'ptmx'].map((name) => `/dev/${name}`);

function isNotDefault({ device }: ResolvedDevice): boolean {
  return !DEFAULT_DEVICES.includes(device.path);
}

/** Nobody makes device nodes in a user namespace; runtimes bind the host's own, but look for it by the container's path. */
function deviceMount({ device, hostPath }: ResolvedDevice): OciMount {
  return bindMount(hostPath, device.path, ['nosuid', 'noexec', 'rw']);
}

/**
 * An image's volume is the image's own directory in the container's writable layer, so it keeps its content, counts
 * as ephemeral storage and goes with the container. Under a read-only root a bind of it on itself keeps it writable.
 */
function volumeMounts(volumes: readonly ImageVolume[]): readonly OciMount[] {
  return volumes.map(({ containerPath, hostPath }) => bindMount(hostPath, posix.resolve('/', containerPath), ['rw']));
}

function toOciMount(mount: ResolvedMount): OciMount {
  const access = mount.recursiveReadOnly ? 'rro' : mount.readonly ? 'ro' : 'rw';
  const mapped = mount.uidMappings.length > 0;
  return {
    destination: mount.containerPath,
    type: 'bind',
    source: mount.source,
    options: ['rbind', mount.propagation, access, ...mount.flags, ...(mapped ? ['idmap'] : [])],
    ...(mapped ? { uidMappings: toOciMappings(mount.uidMappings), gidMappings: toOciMappings(mount.gidMappings) } : {}),
  };
}

function containerLinux(input: ContainerSpecInput, { mounts, devices, seccomp, cdi }: ResolvedContainer): OciLinux {
  const idMaps = idMapsOf(input);
  const security = input.config.linux?.security_context;
  const privileged = security?.privileged ?? false;
  // A mount event crosses the container's root only where that root takes part in propagation.
  const propagations = new Set(mounts.map(({ propagation }) => propagation));
  const rootfsPropagation = propagations.has('rshared') ? 'rshared' : propagations.has('rslave') ? 'rslave' : undefined;
  return {
    namespaces: containerNamespaces(input, privileged),
    cgroupsPath: input.cgroupsPath,
    resources: containerResources(input, devices, privileged),
    devices: idMaps === undefined ? devices.map(({ device }) => device) : [],
    ...(cdi.intelRdt === undefined ? {} : { intelRdt: cdi.intelRdt }),
    // The kubelet sends both lists for privileged containers too; an empty one is procMount Unmasked.
    maskedPaths: privileged ? [] : (security?.masked_paths ?? []),
    readonlyPaths: privileged ? [] : (security?.readonly_paths ?? []),
    ...(rootfsPropagation === undefined ? {} : { rootfsPropagation }),
    ...(seccomp === undefined ? {} : { seccomp }),
  };
}

function containerNamespaces({ config, sandbox, host }: ContainerSpecInput, privileged: boolean): readonly OciNamespace[] {
  const { pid } = sandbox.namespaces;
  const mode = pidMode(config, sandbox.config);
  if ((mode === NamespaceMode.POD || mode === NamespaceMode.TARGET) && pid === undefined) {
    throw new CriError('failedPrecondition', `${SECURITY}.namespace_options.pid: there is no PID namespace to join`);
  }
  const namespaces: OciNamespace[] = [{ type: 'mount' }];
  if (mode !== NamespaceMode.NODE) namespaces.push(mode === NamespaceMode.CONTAINER || pid === undefined ? { type: 'pid' } : { type: 'pid', path: pid });
  namespaces.push(...joinedNamespaces(sandbox.namespaces));
  // On v1 the hierarchies were always visible, and monitoring agents count on it; a privileged one manages the host's. Source: KEP-2254.
  if (host.cgroupV2 && !privileged) namespaces.push({ type: 'cgroup' });
  return namespaces;
}

function containerResources(input: ContainerSpecInput, devices: readonly ResolvedDevice[], privileged: boolean): OciResources {
  const { defaults, host, config } = input;
  const allDevices = privileged && !input.privilegedWithoutHostDevices;
  return {
    ...toOciResources(config.linux?.resources ?? null, host),
    // Runtimes add /dev/null and its like themselves.
    devices: allDevices ? [{ allow: true, access: 'rwm' }] : [{ allow: false, access: 'rwm' }, ...deviceRules(devices)],
    ...(defaults.pidsLimit > 0 ? { pids: { limit: defaults.pidsLimit } } : {}),
  };
}
