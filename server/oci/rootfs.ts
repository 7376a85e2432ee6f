import type { ResolvedUser } from './user.ts';

/** A directory that the image declares as VOLUME. */
export interface ImageVolume {
  readonly containerPath: string;
  /** The same directory seen from the host, below the mounted rootfs. */
  readonly hostPath: string;
}

export interface RootfsPreparation {
  /** The container's cwd, see `workingDirectory`. */
  readonly workingDir: string;
  /** Of the image's configuration; those that the request mounts over do no harm. */
  readonly volumes: readonly string[];
  readonly user: ResolvedUser;
}

/** Makes in the mounted rootfs what must be there: the working directory, image volumes, passwd and group entries. Symlinks are followed inside the rootfs only. */
export function prepareRootfs(_rootfs: string, _want: RootfsPreparation): Promise<{ readonly volumes: readonly ImageVolume[] }> {
  throw new Error('not written yet');
}
