import type { PodSandboxConfig } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';
import type { OciSpec } from './spec.ts';

export interface PauseSpecInput {
  readonly id: string;
  readonly config: PodSandboxConfig;
  /** Paths to join; `undefined` where the pod shares the node's. */
  readonly namespaces: { readonly network?: string | undefined; readonly ipc?: string | undefined; readonly uts?: string | undefined };
  /** Empty sets none. */
  readonly hostname: string;
  readonly args: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  /** A directory that any number of pauses share: it is never written to. It holds `proc` and `dev`. */
  readonly rootfs: string;
  readonly cgroupsPath: string;
  readonly host: HostFacts;
  /** Default 65535:65535, whom nobody else is. */
  readonly user?: { readonly uid: number; readonly gid: number };
}

/** The OCI spec of a pod's pause process. */
export function buildPauseSpec(_input: PauseSpecInput): OciSpec {
  throw new Error('not written yet');
}
