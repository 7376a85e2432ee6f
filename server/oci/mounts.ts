import type { Mount } from '../../proto/cri.ts';

/** One of the request's mounts with its host side looked at. */
export interface ResolvedMount {
  readonly containerPath: string;
  /** Real path on the host: no symlink in it. */
  readonly source: string;
  readonly readonly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly propagation: 'rprivate' | 'rslave' | 'rshared';
  /** Of `nodev nosuid noexec`. */
  readonly flags: readonly string[];
}

export interface MountFeatures {
  /** The OCI runtime and the kernel know `rro`. */
  readonly recursiveReadOnly: boolean;
}

/** @throws {CriError} `invalidArgument` naming the field. */
export function resolveMounts(_mounts: readonly Mount[], _features: MountFeatures): Promise<readonly ResolvedMount[]> {
  throw new Error('not written yet');
}
