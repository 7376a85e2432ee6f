import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { inNamespaces, loopbackUpAsync, MNT, type NamespaceKind, sethostname, umountAsync } from '#base/sys.ts';
import { NamespaceMode, type PodSandboxConfig } from '../../proto/cri.ts';
import { sysctlPath } from '../oci/sysctl.ts';
import type { PinnedNamespaces } from './sandbox.ts';

const kinds = ['net', 'ipc', 'uts'] as const satisfies readonly NamespaceKind[];

/**
 * The namespaces a pod gets of its own and where they will be pinned: `<dir>/{netns,ipcns,utsns}/berth-<id>`. CNI
 * daemons look into `netns`. The UTS namespace goes with the network: a pod on the node's network has the node's name.
 */
export function planNamespaces(namespacesDir: string, id: string, config: PodSandboxConfig): PinnedNamespaces {
  const options = config.linux?.security_context?.namespace_options;
  const at = (kind: NamespaceKind): string => join(namespacesDir, `${kind}ns`, `berth-${id}`);
  return {
    ...(options?.network === NamespaceMode.NODE ? {} : { net: at('net'), uts: at('uts') }),
    ...(options?.ipc === NamespaceMode.NODE ? {} : { ipc: at('ipc') }),
  };
}

/**
 * Makes the namespaces and pins each by a bind mount on its file, with the loopback device up, the host name and the
 * sysctls set. On failure the caller unpins: a part of them may be there.
 */
export async function pinNamespaces(
  pinned: PinnedNamespaces,
  { hostname, sysctls, signal }: { readonly hostname: string; readonly sysctls: Readonly<Record<string, string>>; readonly signal: AbortSignal },
): Promise<void> {
  const present = kinds.filter((kind) => pinned[kind] !== undefined);
  if (present.length === 0) return;
  for (const kind of present) touch(pinned[kind] as string);
  await run('unshare', [...present.map((kind) => `--${kind}=${pinned[kind]}`), '--', 'true'], { signal, hot: true });
  inNamespaces(pinned, () => {
    if (pinned.uts !== undefined && hostname !== '') sethostname(hostname);
    for (const [name, value] of Object.entries(sysctls)) writeFileSync(join('/proc/sys', sysctlPath(name) ?? ''), value);
  });
  if (pinned.net !== undefined) await loopbackUpAsync(pinned.net);
}

/** Lets go of the namespaces; safe to repeat. They end with their last process. */
export async function unpinNamespaces(pinned: PinnedNamespaces): Promise<void> {
  for (const kind of kinds) {
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
  return kinds.every((kind) => {
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
