import { chownSync, readlinkSync } from 'node:fs';

/**
 * Gives the pipes behind a created container's stdin, stdout and stderr to its user, so that programs may open
 * /dev/stdout. The OCI runtime does it itself, but from inside of a user namespace it may not, since the pipes are the
 * monitor's. `init` is the container's first process, which has them open until it is started and after.
 */
export function giveStreams(init: number, { uid, gid }: { readonly uid: number; readonly gid: number }): void {
  for (const fd of [0, 1, 2]) {
    const path = `/proc/${init}/fd/${fd}`;
    if (readlinkSync(path).startsWith('pipe:')) chownSync(path, uid, gid);
  }
}
