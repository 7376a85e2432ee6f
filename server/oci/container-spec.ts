import { allowedAnnotations } from './annotations.ts';
import { cgroupAnnotations } from './cgroup-path.ts';
import { type ContainerSpecInput, capabilitiesOf, type ResolvedContainer } from './container-input.ts';
import { containerLinux } from './container-linux.ts';
import { containerMounts } from './container-mounts.ts';
import { containerProcess } from './container-process.ts';
import { groupHooks } from './hooks.ts';
import { clampOomScore } from './oom-score.ts';
import type { OciSpec } from './spec.ts';

export interface BuiltSpec {
  readonly spec: OciSpec;
  /** Asked for by name, but not the daemon's to give. */
  readonly droppedCapabilities: readonly string[];
  /** Set when oom_score_adj could not be as low as asked. */
  readonly clampedOomScoreAdj: { readonly asked: number; readonly given: number } | undefined;
}

/** The OCI spec of a container. Pure. */
export function buildContainerSpec(input: ContainerSpecInput, resolved: ResolvedContainer): BuiltSpec {
  const { config } = input;
  const capabilities = capabilitiesOf(input);
  const askedScore = Number(config.linux?.resources?.oom_score_adj ?? 0);
  const oomScoreAdj = clampOomScore(askedScore, input.host);
  const annotations = {
    ...allowedAnnotations({ ...input.sandbox.config.annotations, ...config.annotations }, input.allowedAnnotations),
    ...cgroupAnnotations(input.cgroupsPath).annotations,
  };
  const spec: OciSpec = {
    ociVersion: '1.0.2',
    process: containerProcess(input, resolved, { capabilities: capabilities.sets, oomScoreAdj }),
    root: { path: input.rootfs, readonly: config.linux?.security_context?.readonly_rootfs ?? false },
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
