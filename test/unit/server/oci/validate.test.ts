import { describe, expect, test } from 'vitest';
import {
  type ContainerConfig,
  type LinuxContainerSecurityContext,
  type LinuxSandboxSecurityContext,
  NamespaceMode,
  type PodSandboxConfig,
  type Protocol,
  SecurityProfileProfileType,
  type Signal,
  type SupplementalGroupsPolicy,
} from '../../../../proto/cri.ts';
import { validateContainerConfig, validateSandboxConfig } from '../../../../server/oci/validate.ts';
import { containerConfig, fullHost, mount, namespaceOptions, resources, sandboxConfig } from './requests.ts';

const runtimeDefault = { profile_type: SecurityProfileProfileType.RuntimeDefault, localhost_ref: '' };
const metadata = { name: 'web', uid: 'u', namespace: 'default', attempt: 0 };
const sysctls = (map: Record<string, string>) => ({ ...(sandboxConfig().linux as NonNullable<PodSandboxConfig['linux']>), sysctls: map });
const parent = (cgroup_parent: string) => ({ ...(sandboxConfig().linux as NonNullable<PodSandboxConfig['linux']>), cgroup_parent });
const dns = (change: object) => ({ dns_config: { servers: [], searches: [], options: [], ...change } });
const port = (change: object) => ({ port_mappings: [{ protocol: 0 as Protocol, container_port: 80, host_port: 0, host_ip: '', ...change }] });

describe('validateSandboxConfig()', () => {
  test.each<[string, PodSandboxConfig]>([
    ['an ordinary pod', sandboxConfig(port({ host_port: 0 }), { seccomp: runtimeDefault })],
    [
      'a pod on the host',
      sandboxConfig({ hostname: '', ...port({ host_port: 80 }) }, { namespace_options: namespaceOptions({ network: NamespaceMode.NODE }) }),
    ],
    ['a systemd slice by path', sandboxConfig({ linux: parent('/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice') })],
    ['a systemd slice by name', sandboxConfig({ linux: parent('system.slice') })],
    ['no cgroup parent', sandboxConfig({ linux: parent('') })],
    ['nothing but metadata', sandboxConfig({ linux: null, dns_config: null, log_directory: '', hostname: '' })],
    ['empty DNS', sandboxConfig(dns({}))],
    ['sysctls', sandboxConfig({ linux: sysctls({ 'net.ipv4.ip_local_port_range': '1024 65535', 'kernel.shm_rmid_forced': '1' }) })],
    ['userns mode NODE', sandboxConfig({}, { namespace_options: namespaceOptions({ userns_options: { mode: NamespaceMode.NODE, uids: [], gids: [] } }) })],
    ['the host name of a long pod', sandboxConfig({ hostname: 'a'.repeat(63) })],
  ])('takes %s', (_what, config) => {
    expect(() => validateSandboxConfig(config, fullHost)).not.toThrow();
  });

  test.each<[string, Partial<PodSandboxConfig> | null, string]>([
    ['no config', null, 'config: is missing'],
    ['no metadata', { metadata: null }, 'config.metadata: is missing'],
    ['an empty name', { metadata: { ...metadata, name: '' } }, 'config.metadata.name: is empty'],
    ['an empty namespace', { metadata: { ...metadata, namespace: '' } }, 'config.metadata.namespace: is empty'],
    ['an empty uid', { metadata: { ...metadata, uid: '' } }, 'config.metadata.uid: is empty'],
    ['a slash in a name', { metadata: { ...metadata, name: '../x' } }, 'config.metadata.name: "../x"'],
    ['a NUL in a uid', { metadata: { ...metadata, uid: 'a\0' } }, 'config.metadata.uid'],
    ['a line end in a namespace', { metadata: { ...metadata, namespace: 'a\nb' } }, 'config.metadata.namespace'],
    ['a long name', { metadata: { ...metadata, name: 'x'.repeat(254) } }, 'is longer than 253'],
    ['a relative log directory', { log_directory: 'logs' }, 'config.log_directory: "logs"'],
    ['a long host name', { hostname: 'x'.repeat(65) }, 'is longer than 64'],
    ['a bad host name', { hostname: 'a b' }, 'config.hostname: "a b" is no host name'],
    ['a resolv.conf line in DNS', dns({ searches: ['x\nnameserver 6.6.6.6'] }), 'config.dns_config.searches[0]'],
    ['a blank server', dns({ servers: ['1.1.1.1', ''] }), 'config.dns_config.servers[1]: ""'],
    ['an unknown protocol', port({ protocol: 9 }), 'config.port_mappings[0].protocol: 9'],
    ['a port that is none', port({ host_port: 65536 }), 'config.port_mappings[0].host_port: 65536'],
    ['a negative port', port({ container_port: -1 }), 'config.port_mappings[0].container_port: -1'],
    ['a relative cgroup parent', { linux: parent('kubepods/x') }, 'config.linux.cgroup_parent: "kubepods/x"'],
    ['a climbing cgroup parent', { linux: parent('/kubepods/../../x') }, 'config.linux.cgroup_parent'],
    ["the host's sysctl", { linux: sysctls({ 'kernel.panic': '1' }) }, 'config.linux.sysctls: "kernel.panic"'],
    ['a megabyte of labels', { labels: { a: 'x'.repeat(1024 * 1024) } }, 'config.labels: 1048577 bytes'],
  ])('refuses %s', (_what, change, message) => {
    expect(() => validateSandboxConfig(change === null ? null : sandboxConfig(change), fullHost)).toThrow(message);
  });

  test.each<[string, Partial<LinuxSandboxSecurityContext>, string]>([
    [
      'userns mode POD',
      { namespace_options: namespaceOptions({ userns_options: { mode: NamespaceMode.POD, uids: [], gids: [] } }) },
      'userns_options.uids: 0 mappings, where exactly one is possible',
    ],
    ['a negative user', { run_as_user: { value: '-1' } }, 'config.linux.security_context.run_as_user: "-1"'],
    ['a group without a user', { run_as_group: { value: '5' } }, 'run_as_group: "5" needs run_as_user'],
    ['a bad group', { supplemental_groups: ['1', 'x'] }, 'supplemental_groups[1]: "x"'],
    ['an unknown policy', { supplemental_groups_policy: 4 as SupplementalGroupsPolicy }, 'supplemental_groups_policy: 4'],
    ['a relative seccomp profile', { seccomp: { profile_type: SecurityProfileProfileType.Localhost, localhost_ref: 'x' } }, 'seccomp.localhost_ref: "x"'],
  ])('refuses %s in its security context', (_what, change, message) => {
    expect(() => validateSandboxConfig(sandboxConfig({}, change), fullHost)).toThrow(message);
  });
});

describe('validateContainerConfig()', () => {
  const pod = sandboxConfig();
  const privilegedPod = sandboxConfig({}, { privileged: true });

  test('takes what the kubelet sends for an ordinary container', () => {
    const config = containerConfig(
      {
        command: [],
        envs: [{ key: 'KUBERNETES_SERVICE_HOST', value: Buffer.from('10.96.0.1') }],
        mounts: [mount({ readonly: true }), mount({ container_path: '/etc/hosts' }), mount({ container_path: '/dev/termination-log' })],
        annotations: { 'io.kubernetes.container.hash': 'f00', 'io.kubernetes.container.restartCount': '0' },
      },
      {
        run_as_user: { value: '0' },
        capabilities: { add_capabilities: [], drop_capabilities: ['ALL'], add_ambient_capabilities: [] },
        masked_paths: ['/proc/acpi', '/sys/firmware'],
        readonly_paths: ['/proc/sys'],
        seccomp: runtimeDefault,
        no_new_privs: true,
      },
    );
    expect(() => validateContainerConfig(config, pod, fullHost, 0)).not.toThrow();
    expect(() => validateContainerConfig(containerConfig({ linux: null, log_path: '' }), pod, fullHost, 0)).not.toThrow();
    expect(() => validateContainerConfig(containerConfig({}, { privileged: true }), privilegedPod, fullHost, 0)).not.toThrow();
  });

  test.each<[string, Partial<ContainerConfig> | null, string]>([
    ['no config', null, 'config: is missing'],
    ['no metadata', { metadata: null }, 'config.metadata: is missing'],
    ['an empty name', { metadata: { name: '', attempt: 0 } }, 'config.metadata.name: is empty'],
    ['no image', { image: null }, 'config.image.image: is missing'],
    ['a NUL in an argument', { args: ['a\0'] }, 'config.command'],
    ['a relative working directory', { working_dir: 'app' }, 'config.working_dir: "app"'],
    ['an absolute log path', { log_path: '/etc/shadow' }, 'config.log_path: "/etc/shadow"'],
    ['a log path that climbs', { log_path: 'app/../../x' }, 'config.log_path'],
    ['a bad variable', { envs: [{ key: '', value: Buffer.alloc(0) }] }, 'config.envs[0].key'],
    ['a bad mount', { mounts: [mount({ host_path: '' })] }, 'config.mounts[0].host_path'],
    ['a bad device', { devices: [{ host_path: 'x', container_path: '/x', permissions: '' }] }, 'config.devices[0].host_path'],
    ['CDI devices that are none', { CDI_devices: [{ name: 'gpu=0' }] }, 'config.CDI_devices[0].name: "gpu=0" is not vendor/class=name'],
    [
      'CDI devices by annotation',
      { annotations: { 'cdi.k8s.io/gpu': 'vendor.com/gpu' } },
      'config.annotations[cdi.k8s.io/gpu]: "vendor.com/gpu" is not vendor/class=name',
    ],
    ['an unknown signal', { stop_signal: 99 as Signal }, 'config.stop_signal: 99'],
    ['bad resources', { linux: { resources: resources({ cpu_shares: '-5' }), security_context: null } }, 'config.linux.resources.cpu_shares'],
  ])('refuses %s', (_what, change, message) => {
    expect(() => validateContainerConfig(change === null ? null : containerConfig(change), pod, fullHost, 0)).toThrow(message);
  });

  test('refuses a memory limit below the minimum', () => {
    const config = containerConfig({ linux: { resources: resources({ memory_limit_in_bytes: '4095' }), security_context: null } });
    expect(() => validateContainerConfig(config, pod, fullHost, 4095)).not.toThrow();
    expect(() => validateContainerConfig(config, pod, fullHost, 4096)).toThrow('config.linux.resources.memory_limit_in_bytes: 4095 is below 4096');
  });

  test.each<[string, Partial<LinuxContainerSecurityContext>, string]>([
    ['privileged in a pod that is not', { privileged: true }, 'config.linux.security_context.privileged: true is more than the pod has'],
    [
      'an unknown capability',
      { capabilities: { add_capabilities: ['X'], drop_capabilities: [], add_ambient_capabilities: [] } },
      'capabilities.add_capabilities[0]: "X"',
    ],
    ['a user by number and by name', { run_as_user: { value: '1' }, run_as_username: 'app' }, 'run_as_username: "app" stands beside run_as_user'],
    ['a relative masked path', { masked_paths: ['proc/kcore'] }, 'masked_paths[0]: "proc/kcore"'],
    ['a relative read-only path', { readonly_paths: ['/proc', ''] }, 'readonly_paths[1]: ""'],
    ['an unknown seccomp profile', { seccomp_profile_path: 'mine' }, 'seccomp_profile_path: "mine"'],
    ['AppArmor without AppArmor', { apparmor_profile: 'localhost/mine' }, 'apparmor: "mine" needs AppArmor'],
    ['the network of the node', { namespace_options: namespaceOptions({ network: NamespaceMode.NODE }) }, 'namespace_options.network: "NODE" is more'],
  ])('refuses %s', (_what, change, message) => {
    expect(() => validateContainerConfig(containerConfig({}, change), pod, fullHost, 0)).toThrow(message);
  });

  test('bounds the value in a message', () => {
    expect(() => validateContainerConfig(containerConfig({ log_path: `/${'x'.repeat(10_000)}` }), pod, fullHost, 0)).toThrow(/^.{1,200}$/);
  });
});
