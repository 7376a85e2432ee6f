import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CriError, describeError, isErrno, quote } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { inNamespaces, loopbackUpAsync, MNT, type NamespaceKind, sethostname, umountAsync } from '#base/sys.ts';
import { NamespaceMode, type PodSandboxConfig } from '../../proto/cri.ts';
import { type IdMaps, userNamespaceOf } from '../oci/id-mapping.ts';
import { sysctlPath } from '../oci/sysctl.ts';
import type { PinnedNamespaces } from './sandbox.ts';
import { pinNamespace, withUserNamespace } from './user-namespace.ts';

const kinds = ['net', 'ipc', 'uts'] as const satisfies readonly NamespaceKind[];
/** A thread of the daemon never enters the last one. */
const pinnedKinds = [...kinds, 'user'] as const;

/**
 * The namespaces a pod gets of its own and where they will be pinned: `<dir>/{netns,ipcns,utsns,userns}/berth-<id>`. CNI
 * daemons look into `netns`. The UTS namespace goes with the network: a pod on the node's network has the node's name.
 */
export function planNamespaces(namespacesDir: string, id: string, config: PodSandboxConfig): PinnedNamespaces {
  const options = config.linux?.security_context?.namespace_options;
  const at = (kind: NamespaceKind | 'user'): string => join(namespacesDir, `${kind}ns`, `berth-${id}`);
  return {
    ...(options?.network === NamespaceMode.NODE ? {} : { net: at('net'), uts: at('uts') }),
    ...(options?.ipc === NamespaceMode.NODE ? {} : { ipc: at('ipc') }),
    ...(userNamespaceOf(options) === undefined ? {} : { user: at('user') }),
  };
}

/**
 * Makes the namespaces and pins each by a bind mount on its file, with the loopback device up, the host name and the
 * sysctls set. On failure the caller unpins: a part of them may be there.
 */
export async function pinNamespaces(
  pinned: PinnedNamespaces,
  {
    hostname,
    sysctls,
    idMaps,
    signal,
  }: {
    readonly hostname: string;
    readonly sysctls: Readonly<Record<string, string>>;
    /** Of the user namespace, where the pod has one. */
    readonly idMaps?: IdMaps | undefined;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { user, ...joinable } = pinned;
  const present = kinds.filter((kind) => pinned[kind] !== undefined);
  for (const kind of present) touch(pinned[kind] as string);
  if (user !== undefined && idMaps !== undefined) {
    touch(user);
    await withUserNamespace(idMaps, present, signal, (pathOf) => {
      for (const kind of present) pinNamespace(pathOf(kind), pinned[kind] as string);
      pinNamespace(pathOf('user'), user);
    });
  } else if (present.length > 0) await run('unshare', [...present.map((kind) => `--${kind}=${pinned[kind]}`), '--', 'true'], { signal, hot: true });
  if (present.length === 0) return;
  inNamespaces(joinable, () => {
    if (pinned.uts !== undefined && hostname !== '') sethostname(hostname);
    for (const [name, value] of Object.entries(sysctls)) setSysctl(name, value);
  });
  if (pinned.net !== undefined) await loopbackUpAsync(pinned.net);
}

/** @throws {CriError} `invalidArgument` for a sysctl that the kernel does not have, or a value that it refuses. */
function setSysctl(name: string, value: string): void {
  try {
    writeFileSync(join('/proc/sys', sysctlPath(name) ?? ''), value, { flag: 'r+' });
  } catch (err) {
    throw new CriError('invalidArgument', `sysctl ${name}: the kernel refuses ${quote(value)}: ${describeError(err)}`, { cause: err });
  }
}

/** Lets go of the namespaces; safe to repeat. They end with their last process. */
export async function unpinNamespaces(pinned: PinnedNamespaces): Promise<void> {
  for (const kind of pinnedKinds) {
    const path = pinned[kind];
    if (path === undefined) continue;
    try {
      await umountAsync(path, MNT.DETACH | MNT.NOFOLLOW);
    } catch (err) {
      if (!isErrno(err, 'EINVAL', 'ENOENT')) throw err;
    }
    rmSync(path, { force: true });
  }
}

/** nsfs' magic number, see statfs(2): what a pinned namespace's file is on, as long as it is pinned. */
const NSFS_MAGIC = 0x6e73_6673;

/** True while all of them are. */
export function isPinned(pinned: PinnedNamespaces): boolean {
  return pinnedKinds.every((kind) => {
    const path = pinned[kind];
    return path === undefined || fileSystemType(path) === NSFS_MAGIC;
  });
}

function fileSystemType(path: string): number | undefined {
  try {
    return statfsSync(path).type;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}

/** On a tmpfs: microseconds. */
function touch(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  closeSync(openSync(path, 'wx', 0o600));
}
