import { chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { hostname as nodeHostname } from 'node:os';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { labelFile } from '#base/label-file.ts';
import { MNT, MS, mount, umountAsync } from '#base/sys.ts';
import type { DNSConfig, PodSandboxConfig } from '../../proto/cri.ts';
import { hostRoot, userNamespaceOf } from '../oci/id-mapping.ts';
import type { PinnedNamespaces } from './sandbox.ts';

/** Files that every container of a pod mounts. They lie in the sandbox's bundle. */
export interface PodFiles {
  readonly resolvConf: string;
  readonly hostname: string;
  /** The pod's own /dev/shm; absent where the pod has the node's IPC namespace. */
  readonly shm?: string;
}

/** The host name inside the pod: the node's own for a pod without a UTS namespace. */
export function podHostname(config: PodSandboxConfig, pinned: PinnedNamespaces): string {
  return pinned.uts === undefined || config.hostname === '' ? nodeHostname() : config.hostname;
}

export function podFiles(bundle: string, pinned: PinnedNamespaces): PodFiles {
  return {
    resolvConf: join(bundle, 'resolv.conf'),
    hostname: join(bundle, 'hostname'),
    ...(pinned.ipc === undefined ? {} : { shm: join(bundle, 'shm') }),
  };
}

/** Size of a pod's /dev/shm, as docker and its followers have it. */
const SHM_SIZE = '65536k';

/**
 * Writes resolv.conf and hostname and mounts the shm, all of the pod's root user, and with its SELinux label where there is
 * one. Synchronous: the bundle is on a tmpfs, so these are microseconds.
 */
export function makePodFiles(
  files: PodFiles,
  config: PodSandboxConfig,
  { hostname, label }: { readonly hostname: string; readonly label?: string | undefined },
): void {
  const { uid, gid } = hostRoot(userNamespaceOf(config.linux?.security_context?.namespace_options));
  writeFileSync(files.resolvConf, config.dns_config === null ? nodeResolvConf() : formatResolvConf(config.dns_config), { mode: 0o644 });
  writeFileSync(files.hostname, `${hostname}\n`, { mode: 0o644 });
  for (const path of [files.resolvConf, files.hostname]) {
    chownSync(path, uid, gid);
    if (label !== undefined) labelFile(path, label);
  }
  if (files.shm === undefined) return;
  mkdirSync(files.shm);
  // Quoted, since a level has commas. Source: kernel security/selinux/hooks.c, selinux_sb_eat_lsm_opts().
  const context = label === undefined ? '' : `,context="${label}"`;
  mount('shm', files.shm, 'tmpfs', MS.NOSUID | MS.NODEV | MS.NOEXEC, `mode=1777,uid=${uid},gid=${gid},size=${SHM_SIZE}${context}`);
}

/** Takes the shm down; the files go with the bundle. */
export async function removePodFiles(files: PodFiles): Promise<void> {
  if (files.shm === undefined) return;
  try {
    await umountAsync(files.shm, MNT.DETACH | MNT.NOFOLLOW);
  } catch (err) {
    if (!isErrno(err, 'EINVAL', 'ENOENT')) throw err;
  }
}

/** resolv.conf(5) of a pod's DNS settings. */
export function formatResolvConf({ servers, searches, options }: Pick<DNSConfig, 'servers' | 'searches' | 'options'>): string {
  const lines = [];
  if (searches.length > 0) lines.push(`search ${searches.join(' ')}`);
  for (const server of servers) lines.push(`nameserver ${server}`);
  if (options.length > 0) lines.push(`options ${options.join(' ')}`);
  return lines.map((line) => `${line}\n`).join('');
}

function nodeResolvConf(): string {
  try {
    return readFileSync('/etc/resolv.conf', 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return '';
    throw err;
  }
}
