/** What of the configuration goes to which part, and how the part is opened with it. */
import { join } from 'node:path';
import { CriError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { SysError } from '#base/sys.ts';
import { Cni, type CniSettings } from '../cni/cni.ts';
import { Storage, type StorageSettings } from '../storage/storage.ts';
import { readEnvironment } from './config/environment.ts';
import type { Config } from './config.ts';
import type { Metrics } from './metrics/metrics.ts';
import { DEFAULT_PROFILE, loadDefaultProfile } from './oci/apparmor.ts';
import type { CgroupHierarchy } from './oci/cgroup-hierarchy.ts';
import { type ExecCgroups, NO_EXEC_CGROUPS, openExecCgroups } from './oci/exec-cgroup.ts';
import type { HostFacts } from './oci/host-facts.ts';
import { readSelinuxPolicy } from './oci/selinux-policy.ts';
import { readPodCidr } from './rpc/runtime.ts';
import { type StreamServer, serveStreams } from './stream/server.ts';

export function openStorage(config: Config, log: Log, metrics: Metrics, usedBy: (image: string) => string | undefined): Promise<Storage> {
  return Storage.open({
    ...storageSettings(config),
    root: config.root,
    log,
    certificates: config.image.certsDirs,
    proxyEnv: readEnvironment().proxy,
    usedBy,
    observe: {
      received: (bytes) => metrics.countPullBytes(bytes),
      retried: (times) => metrics.countPullRetries(times),
      pulled: (outcome, seconds) => metrics.observePull(outcome, seconds),
      found: (kind) => metrics.countStoreFinding(kind),
    },
  });
}

export function storageSettings({ image }: Config): StorageSettings {
  const { pinnedImages, pauseImage, shortNameMode, ...files } = image;
  return {
    ...files,
    pauseImage,
    pinnedImages: pauseImage === '' ? pinnedImages : [...pinnedImages, pauseImage],
    shortNameMode: shortNameMode === '' ? undefined : shortNameMode,
  };
}

export function openStreams({ api }: Config, log: Log): Promise<StreamServer> {
  const tls = {
    certFile: api.streamTlsCert,
    keyFile: api.streamTlsKey,
    caFile: api.streamTlsCa,
    minVersion: api.tlsMinVersion === 'VersionTLS13' ? 'TLSv1.3' : 'TLSv1.2',
  } as const;
  return serveStreams({
    address: api.streamAddress,
    port: api.streamPort,
    tls: api.streamEnableTls ? tls : undefined,
    idleTimeoutMs: api.streamIdleTimeoutMs,
    creationTimeoutMs: api.streamCreationTimeoutMs,
    log,
  });
}

export async function openCni(config: Config, log: Log, metrics: Metrics): Promise<Cni> {
  return await Cni.open({
    networkDir: config.network.networkDir,
    pluginDirs: config.network.pluginDirs,
    cacheDir: join(config.root, 'cni'),
    podCidr: await readPodCidr(config.root),
    settings: cniSettings(config),
    log,
    observe: ({ verb, plugin, seconds, error }) => metrics.observeCni({ verb, plugin, ok: error === undefined }, seconds),
  });
}

/** What of the configuration may change while pods run. */
export function cniSettings({ network, runtime }: Config): CniSettings {
  return {
    defaultNetwork: network.cniDefaultNetwork,
    additionalNetworks: network.cniAdditionalNetworks,
    addTimeoutMs: network.cniAddTimeoutMs,
    delTimeoutMs: network.cniDelTimeoutMs,
    parallel: network.cniParallel,
    statusGraceMs: network.cniStatusGracePeriodMs,
    hostPorts: !runtime.disableHostportMapping,
  };
}

/** Where the kernel has none for them, what commands leave behind is found by descent and session. */
export function openCommandCgroups(hierarchy: CgroupHierarchy, { runroot }: Config, log: Log): ExecCgroups {
  try {
    return openExecCgroups(hierarchy, join(runroot, 'exec-cgroups'));
  } catch (err) {
    if (!(err instanceof SysError)) throw err;
    log.warn({ err }, 'Could not make cgroup hierarchy for commands');
    return NO_EXEC_CGROUPS;
  }
}

/** The profile of who asks for none, loaded. Without it containers run unconfined, as with other runtimes, and it is said once. */
export async function defaultAppArmor({ runtime }: Config, host: HostFacts, log: Log, signal: AbortSignal): Promise<Pick<HostFacts, 'apparmorDefault'>> {
  const name = runtime.apparmorProfile;
  if (!host.apparmor) return {};
  if (name === '' || name === 'unconfined') return { apparmorDefault: 'unconfined' };
  if (name === DEFAULT_PROFILE) {
    const loaded = await loadDefaultProfile(signal);
    if ('name' in loaded) return { apparmorDefault: loaded.name };
    log.warn({ reason: loaded.problem }, 'Could not load AppArmor profile: containers run unconfined by it');
    return {};
  }
  if (host.isProfileLoaded(name)) return { apparmorDefault: name };
  throw new CriError('failedPrecondition', `runtime.apparmor_profile: "${name}" is not loaded on this node`);
}

/** What containers are labelled by. Without it they have no SELinux labels, and it is said once. */
export async function selinuxFacts({ runtime }: Config, { selinux }: HostFacts, log: Log): Promise<Pick<HostFacts, 'selinuxPolicy' | 'selinuxProblem'>> {
  if (!selinux || !runtime.selinux) return {};
  const policy = await readSelinuxPolicy();
  if (typeof policy !== 'string') return { selinuxPolicy: policy };
  log.warn({ reason: policy }, 'Could not use SELinux: containers have no labels');
  return { selinuxProblem: policy };
}
