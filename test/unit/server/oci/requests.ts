import {
  type ContainerConfig,
  type LinuxContainerResources,
  type LinuxContainerSecurityContext,
  type LinuxSandboxSecurityContext,
  type Mount,
  MountPropagation,
  NamespaceMode,
  type NamespaceOption,
  type PodSandboxConfig,
  Signal,
  SupplementalGroupsPolicy,
} from '../../../../proto/cri.ts';
import type { ContainerSpecInput, ImageConfig } from '../../../../server/oci/container-input.ts';
import type { HostFacts } from '../../../../server/oci/host-facts.ts';
import type { SelinuxPolicy } from '../../../../server/oci/selinux-label.ts';

/** Messages as they come off the wire: everything unset has its default. Each takes what a test wants otherwise. */
export function namespaceOptions(change: Partial<NamespaceOption> = {}): NamespaceOption {
  return { network: NamespaceMode.POD, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD, target_id: '', userns_options: null, ...change };
}

export function resources(change: Partial<LinuxContainerResources> = {}): LinuxContainerResources {
  return {
    cpu_period: '0',
    cpu_quota: '0',
    cpu_shares: '0',
    memory_limit_in_bytes: '0',
    oom_score_adj: '0',
    cpuset_cpus: '',
    cpuset_mems: '',
    hugepage_limits: [],
    unified: {},
    memory_swap_limit_in_bytes: '0',
    ...change,
  };
}

export function containerSecurity(change: Partial<LinuxContainerSecurityContext> = {}): LinuxContainerSecurityContext {
  return {
    capabilities: null,
    privileged: false,
    namespace_options: namespaceOptions(),
    selinux_options: null,
    run_as_user: null,
    run_as_group: null,
    run_as_username: '',
    readonly_rootfs: false,
    supplemental_groups: [],
    supplemental_groups_policy: SupplementalGroupsPolicy.Merge,
    no_new_privs: false,
    masked_paths: [],
    readonly_paths: [],
    seccomp: null,
    apparmor: null,
    apparmor_profile: '',
    seccomp_profile_path: '',
    ...change,
  };
}

export function containerConfig(change: Partial<ContainerConfig> = {}, security: Partial<LinuxContainerSecurityContext> = {}): ContainerConfig {
  return {
    metadata: { name: 'app', attempt: 0 },
    image: { image: 'sha256:abc', annotations: {}, user_specified_image: 'busybox', runtime_handler: '', image_ref: '' },
    command: ['sh'],
    args: [],
    working_dir: '',
    envs: [],
    mounts: [],
    devices: [],
    labels: {},
    annotations: {},
    log_path: 'app/0.log',
    stdin: false,
    stdin_once: false,
    tty: false,
    linux: { resources: resources(), security_context: containerSecurity(security) },
    windows: null,
    CDI_devices: [],
    stop_signal: Signal.SIGNAL_RUNTIME_DEFAULT,
    ...change,
  };
}

export function sandboxSecurity(change: Partial<LinuxSandboxSecurityContext> = {}): LinuxSandboxSecurityContext {
  return {
    namespace_options: namespaceOptions(),
    selinux_options: null,
    run_as_user: null,
    run_as_group: null,
    readonly_rootfs: false,
    supplemental_groups: [],
    supplemental_groups_policy: SupplementalGroupsPolicy.Merge,
    privileged: false,
    seccomp: null,
    apparmor: null,
    seccomp_profile_path: '',
    ...change,
  };
}

export function sandboxConfig(change: Partial<PodSandboxConfig> = {}, security: Partial<LinuxSandboxSecurityContext> = {}): PodSandboxConfig {
  return {
    metadata: { name: 'web', uid: '6c5e5d1e', namespace: 'default', attempt: 0 },
    hostname: 'web',
    log_directory: '/var/log/pods/default_web_6c5e5d1e',
    dns_config: { servers: ['10.96.0.10'], searches: ['default.svc.cluster.local'], options: ['ndots:5'] },
    port_mappings: [],
    labels: {},
    annotations: {},
    linux: {
      cgroup_parent: '/kubepods/burstable/pod6c5e5d1e',
      security_context: sandboxSecurity(security),
      sysctls: {},
      overhead: resources(),
      resources: resources(),
    },
    windows: null,
    ...change,
  };
}

export function mount(change: Partial<Mount> = {}): Mount {
  return {
    container_path: '/data',
    host_path: '/',
    readonly: false,
    selinux_relabel: false,
    propagation: MountPropagation.PROPAGATION_PRIVATE,
    uidMappings: [],
    gidMappings: [],
    recursive_read_only: false,
    image: null,
    image_sub_path: '',
    mount_options: [],
    ...change,
  };
}

export const fullHost: HostFacts = {
  capabilities: ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_BIND_SERVICE', 'CAP_NET_ADMIN', 'CAP_SYS_CHROOT', 'CAP_SYS_ADMIN'],
  oomScoreAdj: 0,
  canLowerOomScore: true,
  seccomp: true,
  apparmor: false,
  isProfileLoaded: () => true,
  selinux: false,
  cgroupV2: true,
  hugepageSizes: ['2MB', '1GB'],
  swap: true,
  seccompArchitecture: 'SCMP_ARCH_X86_64',
};

/**
 * A policy with the usual types, an alias, and `my_r`, which is a role of `my_t` alone. It writes categories in their order,
 * as the kernel does.
 */
export const selinuxPolicy: SelinuxPolicy = {
  process: { user: 'system_u', role: 'system_r', type: 'container_t', level: 's0' },
  file: { user: 'system_u', role: 'object_r', type: 'container_file_t', level: 's0' },
  readonlyFile: { user: 'system_u', role: 'object_r', type: 'container_ro_file_t', level: 's0' },
  unconfinedType: 'spc_t',
  canonical: (label) => {
    const [, user = '', role = '', type = '', level] = /^([^:]*):([^:]*):([^:]*)(?::(s0(?::c\d+(?:,c\d+)*)?))?$/.exec(label) ?? [];
    const roles: Readonly<Record<string, readonly string[]>> = {
      container_t: ['system_r'],
      svirt_lxc_net_t: ['system_r'],
      spc_t: ['system_r'],
      my_t: ['system_r', 'my_r'],
      container_file_t: ['object_r'],
    };
    if (!['system_u', 'staff_u'].includes(user) || roles[type]?.includes(role) !== true) return undefined;
    const [sensitivity = '', categories = ''] = (level ?? '').split(':');
    const sorted = categories.split(',').toSorted((a, b) => Number(a.slice(1)) - Number(b.slice(1)));
    const name = type === 'svirt_lxc_net_t' ? 'container_t' : type;
    return [user, role, name, ...[sensitivity, sorted.join(',')].filter((part) => part !== '')].join(':');
  },
};

export function image(change: Partial<ImageConfig> = {}): ImageConfig {
  return { entrypoint: [], cmd: [], env: [], user: '', workingDir: '', stopSignal: '', volumes: [], ...change };
}

export function specInput(config: ContainerConfig, change: Partial<ContainerSpecInput> = {}): ContainerSpecInput {
  return {
    id: 'c1',
    config,
    sandbox: {
      id: 's1',
      config: sandboxConfig(),
      namespaces: { network: '/ns/net', ipc: '/ns/ipc', uts: '/ns/uts' },
      hostname: 'web',
      resolvConf: '/pod/resolv.conf',
      hostnameFile: '/pod/hostname',
      shmDir: '/pod/shm',
    },
    image: image(),
    rootfs: '/rootfs',
    cgroupsPath: '/kubepods/pod1/c1',
    host: fullHost,
    defaults: { defaultCapabilities: ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_BIND_SERVICE'], defaultEnv: [], seccompProfile: '', pidsLimit: 0, defaultUlimits: [] },
    allowedAnnotations: [],
    privilegedWithoutHostDevices: false,
    features: { recursiveReadOnly: true, idmapped: true, netDevices: true, ownRoots: [] },
    imageSources: new Map(),
    deviceOwnership: false,
    cdiSpecDirs: [],
    ...change,
  };
}
