import { invalidField } from '#base/errors.ts';
import { type ContainerConfig, NamespaceMode, type NamespaceOption, type PodSandboxConfig } from '../../proto/cri.ts';
import { validateContainerUserNamespace, validateUserNamespace } from './id-mapping.ts';
import type { OciNamespace } from './spec.ts';

/** Which PID namespace a container lives in. A container that says nothing does as its pod says. */
export function pidMode(config: Pick<ContainerConfig, 'linux'>, sandbox: Pick<PodSandboxConfig, 'linux'>): NamespaceMode {
  const pod = sandbox.linux?.security_context?.namespace_options?.pid ?? NamespaceMode.POD;
  const own = config.linux?.security_context?.namespace_options?.pid ?? pod;
  // The pod's namespace is the node's when the pod has none of its own.
  return own === NamespaceMode.POD && pod === NamespaceMode.NODE ? NamespaceMode.NODE : own;
}

/** The pod's pinned namespaces, for everything that runs in it; what it has none of is the node's. */
export function joinedNamespaces(paths: Readonly<Partial<Record<'network' | 'ipc' | 'uts' | 'user', string | undefined>>>): readonly OciNamespace[] {
  return (['network', 'ipc', 'uts', 'user'] as const).flatMap((type) => (paths[type] === undefined ? [] : [{ type, path: paths[type] }]));
}

/** @throws {CriError} `invalidArgument` naming the field. */
export function validateSandboxNamespaces(field: string, options: NamespaceOption | null): void {
  if (options === null) return;
  checkMode(`${field}.network`, options.network, [NamespaceMode.POD, NamespaceMode.NODE]);
  checkMode(`${field}.ipc`, options.ipc, [NamespaceMode.POD, NamespaceMode.NODE]);
  checkMode(`${field}.pid`, options.pid, [NamespaceMode.POD, NamespaceMode.CONTAINER, NamespaceMode.NODE]);
  if (options.target_id !== '') throw invalidField(`${field}.target_id`, options.target_id, 'has no meaning for a pod');
  validateUserNamespace(`${field}.userns_options`, options);
}

/** A container shares its pod's network and ipc namespace; what it says about them must not be more than the pod has. */
export function validateContainerNamespaces(field: string, options: NamespaceOption | null, pod: NamespaceOption | null): void {
  if (options === null) return;
  checkMode(`${field}.network`, options.network, [NamespaceMode.POD, NamespaceMode.NODE]);
  checkMode(`${field}.ipc`, options.ipc, [NamespaceMode.POD, NamespaceMode.NODE]);
  checkMode(`${field}.pid`, options.pid, Object.values(NamespaceMode));
  for (const kind of ['network', 'ipc', 'pid'] as const) {
    if (options[kind] === NamespaceMode.NODE && pod?.[kind] !== NamespaceMode.NODE) throw invalidField(`${field}.${kind}`, 'NODE', 'is more than the pod has');
  }
  const targets = options.pid === NamespaceMode.TARGET;
  if (targets && options.target_id === '') throw invalidField(`${field}.target_id`, '', 'is empty, but pid is TARGET');
  if (!targets && options.target_id !== '') throw invalidField(`${field}.target_id`, options.target_id, 'needs pid TARGET');
  validateContainerUserNamespace(`${field}.userns_options`, options, pod);
}

function checkMode(field: string, mode: number, allowed: readonly NamespaceMode[]): void {
  if (allowed.some((value) => value === mode)) return;
  const name = Object.entries(NamespaceMode).find(([, value]) => value === mode)?.[0] ?? mode;
  throw invalidField(field, name, 'is no mode that it can have');
}
