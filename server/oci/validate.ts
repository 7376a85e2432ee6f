import type { ContainerConfig, PodSandboxConfig } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';

/** `config` with what RunPodSandbox cannot do without. */
export type ValidSandboxConfig = PodSandboxConfig & { readonly metadata: NonNullable<PodSandboxConfig['metadata']> };
export type ValidContainerConfig = ContainerConfig & {
  readonly metadata: NonNullable<ContainerConfig['metadata']>;
  readonly image: NonNullable<ContainerConfig['image']>;
};

/** @throws {CriError} `invalidArgument` (or `unimplemented` for what this version cannot do) naming the field. */
export function validateSandboxConfig(_config: PodSandboxConfig | null, _host: HostFacts): asserts _config is ValidSandboxConfig {
  throw new Error('not written yet');
}

/** @throws {CriError} as `validateSandboxConfig`. */
export function validateContainerConfig(
  _config: ContainerConfig | null,
  _sandbox: PodSandboxConfig,
  _host: HostFacts,
): asserts _config is ValidContainerConfig {
  throw new Error('not written yet');
}
