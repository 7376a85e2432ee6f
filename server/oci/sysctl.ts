import { invalidField } from '#base/errors.ts';
import { NamespaceMode, type NamespaceOption } from '../../proto/cri.ts';
import type { IdMaps } from './id-mapping.ts';

/** The namespace that a sysctl belongs to; no other sysctl may be set for a pod. Source: ipc/ipc_sysctl.c, ipc/mq_sysctl.c, net/sysctl_net.c, kernel/utsname_sysctl.c. */
const NAMESPACED = [
  { kind: 'ipc', pattern: /^kernel\/(shm[a-z_]+|msg[a-z_]+|sem|sem_next_id|shm_rmid_forced|auto_msgmni)$/ },
  { kind: 'ipc', pattern: /^fs\/mqueue\/[a-z_]+$/ },
  { kind: 'uts', pattern: /^kernel\/domainname$/ },
  { kind: 'network', pattern: /^net\// },
] as const;

export type SysctlNamespace = (typeof NAMESPACED)[number]['kind'];

/**
 * The file of a sysctl below /proc/sys, without the prefix. Whichever of `.` and `/` comes first separates; the other
 * one stands for it inside a part (`net.ipv4.conf.eth0/100.forwarding`). Source: sysctl(8).
 * `undefined` for a name that is none, or whose path could climb.
 */
export function sysctlPath(name: string): string | undefined {
  const dotted = /[./]/.exec(name)?.[0] === '.';
  const parts = dotted ? name.split('.').map((part) => part.replaceAll('/', '.')) : name.split('/');
  if (parts.length < 2 || !parts.every((part) => /^[A-Za-z0-9_.:@-]+$/.test(part) && !/^\.+$/.test(part))) return undefined;
  return parts.join('/');
}

/** The namespace to set it in; `undefined` for the host's own sysctls. */
export function sysctlNamespace(name: string): SysctlNamespace | undefined {
  const path = sysctlPath(name);
  return path === undefined ? undefined : NAMESPACED.find(({ pattern }) => pattern.test(path))?.kind;
}

/** More than one line could say more than one value. */
export function isSysctlValue(value: string): boolean {
  return /^[\t -~]{1,4096}$/.test(value);
}

/** @throws {CriError} `invalidArgument` naming the sysctl. */
export function validateSysctls(field: string, sysctls: Readonly<Record<string, string>>, namespaces: NamespaceOption | null): void {
  for (const [name, value] of Object.entries(sysctls)) {
    const kind = sysctlNamespace(name);
    if (kind === undefined) throw invalidField(field, name, 'is no sysctl of a namespace');
    const mode = kind === 'ipc' ? namespaces?.ipc : namespaces?.network; // the UTS namespace goes with the network's
    if (mode === NamespaceMode.NODE) throw invalidField(field, name, `would be set on the node: the pod has the host's ${kind} namespace`);
    if (!isSysctlValue(value)) throw invalidField(`${field}[${name}]`, value, 'is not one line of text');
  }
}

/**
 * The sysctls as the daemon has to write them, which is outside of the pod's user namespace: groups that are named in one
 * are the pod's, and the kernel takes them for the writer's. Source: net/ipv4/sysctl_net_ipv4.c, ipv4_ping_group_range().
 */
export function translateSysctls(sysctls: Readonly<Record<string, string>>, idMaps: IdMaps | undefined): Readonly<Record<string, string>> {
  if (idMaps === undefined) return sysctls;
  return Object.fromEntries(
    Object.entries(sysctls).map(([name, value]) => {
      const range = /^\s*(\d+)\s+(\d+)\s*$/.exec(value);
      if (sysctlPath(name) !== 'net/ipv4/ping_group_range' || range === null) return [name, value];
      const [from, to] = [Number(range[1]), Number(range[2])];
      const [mapping] = idMaps.gids;
      // An empty range stays empty; one that goes past the mapped groups ends with them.
      if (mapping === undefined || from > to || from >= mapping.length) return [name, '1 0'];
      return [name, `${mapping.host_id + from} ${mapping.host_id + Math.min(to, mapping.length - 1)}`];
    }),
  );
}
