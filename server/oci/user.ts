import type { LinuxContainerSecurityContext } from '../../proto/cri.ts';

/** Who the container's process is. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** The primary group is one of them: setgroups(2) must not take it away. */
  readonly additionalGids: readonly number[];
  /** From the image's passwd; `undefined` for a number that it does not list. */
  readonly username: string | undefined;
  readonly home: string;
  /** Whole new contents where the image has the file but not this user or group. See `writeEtcFiles`. */
  readonly etcFiles: { readonly passwd?: string; readonly group?: string };
}

/** @throws {CriError} `invalidArgument` naming the field, or the image's USER. */
export function resolveUser(_rootfs: string, _imageUser: string, _security: LinuxContainerSecurityContext | null): Promise<ResolvedUser> {
  throw new Error('not written yet');
}
