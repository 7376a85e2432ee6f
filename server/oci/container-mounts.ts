import { posix } from 'node:path';
import { NamespaceMode } from '../../proto/cri.ts';
import { type ContainerSpecInput, idMapsOf, type ResolvedContainer } from './container-input.ts';
import { bindMount, defaultMounts, mergeMounts } from './default-mounts.ts';
import type { ResolvedDevice } from './devices.ts';
import { toOciMappings } from './id-mapping.ts';
import type { ResolvedMount } from './mounts.ts';
import { pidMode } from './namespaces.ts';
import type { ImageVolume } from './rootfs.ts';
import type { OciMount } from './spec.ts';

/** What every container has, then what the request and its CDI devices name. */
export function containerMounts(input: ContainerSpecInput, { mounts, volumes, cdi, devices }: ResolvedContainer): readonly OciMount[] {
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
