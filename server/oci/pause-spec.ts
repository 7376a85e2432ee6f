import { type LinuxSandboxSecurityContext, NamespaceMode, type PodSandboxConfig } from '../../proto/cri.ts';
import { appArmorProfile } from './apparmor-profile.ts';
import { cgroupAnnotations } from './cgroup-path.ts';
import { bindMount } from './default-mounts.ts';
import type { HostFacts } from './host-facts.ts';
import { type IdMaps, userNamespaceOf } from './id-mapping.ts';
import { joinedNamespaces } from './namespaces.ts';
import { clampOomScore } from './oom-score.ts';
import type { ContainerLabels } from './selinux-label.ts';
import type { OciNamespace, OciSpec, OciUser } from './spec.ts';

export interface PauseSpecInput {
  readonly id: string;
  /** Has passed `validateSandboxConfig`. */
  readonly config: PodSandboxConfig;
  /** Paths to join; `undefined` where the pod shares the node's. */
  readonly namespaces: Readonly<Partial<Record<'network' | 'ipc' | 'uts' | 'user', string | undefined>>>;
  /** The pod's, which a joined UTS namespace has already. */
  readonly hostname: string;
  readonly args: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  /** A directory that any number of pauses share: nothing is written to it. It holds `proc` and `dev`. */
  readonly rootfs: string;
  readonly cgroupsPath: string;
  readonly host: HostFacts;
  /** Absent where containers are not labelled. */
  readonly labels?: ContainerLabels | undefined;
}

/** The kubelet's own score for it: nearly last to go, after the daemons of the node. */
const PAUSE_OOM_SCORE = -998;

/** The least a cgroup can have: it sleeps. */
const PAUSE_CPU_SHARES = 2;

/** A user whom no image has. */
const NOBODY_ELSE = 65_535;

/** The pod's user where it names one, else 65535:65535; in a user namespace with fewer ids its last one. */
function pauseUser(security: LinuxSandboxSecurityContext | null, idMaps: IdMaps | undefined): OciUser {
  const last = (mappings: IdMaps['uids'] | undefined): number => Math.min(NOBODY_ELSE, (mappings?.[0]?.length ?? NOBODY_ELSE + 1) - 1);
  const uid = Number(security?.run_as_user?.value ?? last(idMaps?.uids));
  const gid = Number(security?.run_as_group?.value ?? last(idMaps?.gids));
  return { uid, gid, additionalGids: [...new Set([gid, ...(security?.supplemental_groups ?? []).map(Number)])] };
}

/**
 * The OCI spec of a pod's pause process. Pure. The pod's sysctls are set where its namespaces are made, not here.
 *
 * No seccomp filter, though the kubelet asks RuntimeDefault for every pod: it would be compiled anew for each (some
 * 2 ms with crun) to guard a program that is the runtime's own, sleeps, and reads nothing of the pod's. What guards it is
 * having nothing: no capability, no way to gain one, no writable file, no device, a user of its own.
 */
export function buildPauseSpec(input: PauseSpecInput): OciSpec {
  const security = input.config.linux?.security_context ?? null;
  const apparmor = appArmorProfile('config.linux.security_context', security, input.host);
  const idMaps = userNamespaceOf(security?.namespace_options);
  const { uid, gid, additionalGids } = pauseUser(security, idMaps);
  const none: readonly string[] = [];
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid, gid, additionalGids },
      args: input.args,
      env: input.env,
      cwd: '/',
      capabilities: { bounding: none, effective: none, permitted: none, inheritable: none, ambient: none },
      noNewPrivileges: true,
      oomScoreAdj: clampOomScore(PAUSE_OOM_SCORE, input.host),
      ...(apparmor === undefined ? {} : { apparmorProfile: apparmor }),
      ...(input.labels?.process === undefined ? {} : { selinuxLabel: input.labels.process }),
    },
    root: { path: input.rootfs, readonly: true },
    ...(input.namespaces.uts === undefined || input.hostname === '' ? {} : { hostname: input.hostname }),
    // crun and runc need /proc while they set up; without a /dev of its own they would make device nodes in the shared directory.
    mounts: [
      idMaps === undefined || hasOwnPids(input)
        ? { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] }
        : bindMount('/proc', '/proc', ['nosuid', 'noexec', 'nodev']),
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'noexec', 'mode=755', 'size=64k'] },
    ],
    ...cgroupAnnotations(input.cgroupsPath),
    linux: {
      namespaces: pauseNamespaces(input),
      cgroupsPath: input.cgroupsPath,
      resources: { devices: [{ allow: false, access: 'rwm' }], cpu: { shares: PAUSE_CPU_SHARES } },
      maskedPaths: ['/proc/kcore', '/proc/keys', '/proc/timer_list'],
      readonlyPaths: ['/proc/sys', '/proc/sysrq-trigger'],
      ...(input.labels === undefined ? {} : { mountLabel: input.labels.mount }),
    },
  };
}

function pauseNamespaces(input: PauseSpecInput): readonly OciNamespace[] {
  const namespaces: OciNamespace[] = [{ type: 'mount' }];
  // Its PID namespace is the one that mode POD means.
  if (hasOwnPids(input)) namespaces.push({ type: 'pid' });
  return [...namespaces, ...joinedNamespaces(input.namespaces)];
}

function hasOwnPids({ config }: PauseSpecInput): boolean {
  return config.linux?.security_context?.namespace_options?.pid !== NamespaceMode.NODE;
}
