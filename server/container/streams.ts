import { chownSync, readlinkSync } from 'node:fs';
import type { PodSandboxConfig } from '../../proto/cri.ts';
import { hostId, userNamespaceOf } from '../oci/id-mapping.ts';

export interface StreamOwner {
  readonly uid: number;
  readonly gid: number;
}

/** Who a container's user is outside of its pod's user namespace; `undefined` for a pod without one, where the OCI runtime cares. */
export function streamOwner(pod: PodSandboxConfig | undefined, user: StreamOwner): StreamOwner | undefined {
  const maps = userNamespaceOf(pod?.linux?.security_context?.namespace_options);
  return maps === undefined ? undefined : { uid: hostId(maps.uids, user.uid) ?? 0, gid: hostId(maps.gids, user.gid) ?? 0 };
}

/**
 * Gives the pipes behind a created container's stdin, stdout and stderr to its user, so that programs may open
 * /dev/stdout. The OCI runtime does it itself, but from inside of a user namespace it may not, since the pipes are the
 * monitor's. `init` is the container's first process, which has them open until it is started and after.
 */
export function giveStreams(init: number, { uid, gid }: StreamOwner): void {
  for (const fd of [0, 1, 2]) {
    const path = `/proc/${init}/fd/${fd}`;
    if (readlinkSync(path).startsWith('pipe:')) chownSync(path, uid, gid);
  }
}
