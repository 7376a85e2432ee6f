import { CriError } from '#base/errors.ts';
import { NamespaceMode } from '../../proto/cri.ts';
import { type ContainerSpecInput, idMapsOf, type ResolvedContainer, SECURITY } from './container-input.ts';
import { deviceRules, type ResolvedDevice } from './devices.ts';
import { joinedNamespaces, pidMode } from './namespaces.ts';
import { toOciResources } from './resources.ts';
import type { OciLinux, OciNamespace, OciResources } from './spec.ts';

/** Namespaces, cgroup, devices, and what is hidden. */
export function containerLinux(input: ContainerSpecInput, { mounts, devices, seccomp, cdi }: ResolvedContainer): OciLinux {
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
    ...(Object.keys(cdi.netDevices).length === 0 ? {} : { netDevices: cdi.netDevices }),
    // The kubelet sends both lists for privileged containers too; an empty one is procMount Unmasked.
    maskedPaths: privileged ? [] : (security?.masked_paths ?? []),
    readonlyPaths: privileged ? [] : (security?.readonly_paths ?? []),
    ...(rootfsPropagation === undefined ? {} : { rootfsPropagation }),
    ...(seccomp === undefined ? {} : { seccomp }),
    ...(input.labels === undefined ? {} : { mountLabel: input.labels.mount }),
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
