import { invalidField } from '#base/errors.ts';
import type { Capability } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';
import type { OciCapabilities } from './spec.ts';

/** Every capability; its place is its number. Source: linux/capability.h. */
export const CAPABILITIES = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_DAC_READ_SEARCH',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_LINUX_IMMUTABLE',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_BROADCAST',
  'CAP_NET_ADMIN',
  'CAP_NET_RAW',
  'CAP_IPC_LOCK',
  'CAP_IPC_OWNER',
  'CAP_SYS_MODULE',
  'CAP_SYS_RAWIO',
  'CAP_SYS_CHROOT',
  'CAP_SYS_PTRACE',
  'CAP_SYS_PACCT',
  'CAP_SYS_ADMIN',
  'CAP_SYS_BOOT',
  'CAP_SYS_NICE',
  'CAP_SYS_RESOURCE',
  'CAP_SYS_TIME',
  'CAP_SYS_TTY_CONFIG',
  'CAP_MKNOD',
  'CAP_LEASE',
  'CAP_AUDIT_WRITE',
  'CAP_AUDIT_CONTROL',
  'CAP_SETFCAP',
  'CAP_MAC_OVERRIDE',
  'CAP_MAC_ADMIN',
  'CAP_SYSLOG',
  'CAP_WAKE_ALARM',
  'CAP_BLOCK_SUSPEND',
  'CAP_AUDIT_READ',
  'CAP_PERFMON',
  'CAP_BPF',
  'CAP_CHECKPOINT_RESTORE',
] as const;

const ALL = 'ALL';

export interface ResolvedCapabilities {
  readonly sets: OciCapabilities;
  /** Asked for by name, but not in the daemon's bounding set: the runtimes refuse what they cannot give. */
  readonly dropped: readonly string[];
}

/** The daemon's defaults, and what the request adds and takes away. `ALL` counts first, then each name; a drop beats an add. */
export function resolveCapabilities(
  request: Capability | null,
  privileged: boolean,
  defaults: readonly string[],
  host: Pick<HostFacts, 'capabilities'>,
): ResolvedCapabilities {
  // Privileged means all that there is: lists beside it are not looked at, as in both peers.
  if (privileged) return { sets: sets(host.capabilities, []), dropped: [] };
  const add = (request?.add_capabilities ?? []).map(capabilityName);
  const drop = (request?.drop_capabilities ?? []).map(capabilityName);
  const ambient = (request?.add_ambient_capabilities ?? []).map(capabilityName);
  let granted = add.includes(ALL) ? [...host.capabilities] : [...defaults];
  if (drop.includes(ALL)) granted = [];
  const wanted = new Set([...granted, ...add, ...ambient].filter((name) => name !== ALL && !drop.includes(name)));
  const given = host.capabilities.filter((name) => wanted.has(name));
  const asked = [...new Set([...add, ...ambient])].filter((name) => wanted.has(name));
  const raised = ambient.includes(ALL) ? given : given.filter((name) => ambient.includes(name));
  return { sets: sets(given, raised), dropped: asked.filter((name) => !given.includes(name)) };
}

/** @throws {CriError} `invalidArgument` for a name that the kernel's header does not have. */
export function validateCapabilities(field: string, request: Capability | null): void {
  for (const list of ['add_capabilities', 'drop_capabilities', 'add_ambient_capabilities'] as const) {
    for (const [index, name] of (request?.[list] ?? []).entries()) {
      const full = capabilityName(name);
      if (full !== ALL && !(CAPABILITIES as readonly string[]).includes(full)) throw invalidField(`${field}.${list}[${index}]`, name, 'is no capability');
    }
  }
}

/** The kubelet sends `NET_ADMIN`, people also write `CAP_NET_ADMIN`. */
function capabilityName(name: string): string {
  const upper = name.toUpperCase();
  return upper === ALL || upper.startsWith('CAP_') ? upper : `CAP_${upper}`;
}

/**
 * Inheritable holds only what is ambient, which the kernel demands (capabilities(7)); anything more would let an
 * unprivileged process gain it through a file's inheritable set (CVE-2022-27652).
 */
function sets(given: readonly string[], ambient: readonly string[]): OciCapabilities {
  return { bounding: given, effective: given, permitted: given, inheritable: ambient, ambient };
}
