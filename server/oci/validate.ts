import { CriError, invalidField } from '#base/errors.ts';
import {
  type ContainerConfig,
  type LinuxContainerSecurityContext,
  type PodSandboxConfig,
  Protocol,
  Signal,
  SupplementalGroupsPolicy,
} from '../../proto/cri.ts';
import { appArmorProfile } from './apparmor-profile.ts';
import { validateCapabilities } from './capabilities.ts';
import { validateCdi } from './cdi.ts';
import { validateDevices } from './devices.ts';
import { validateEnvironment } from './environment.ts';
import { parseUserId } from './etc-passwd.ts';
import type { HostFacts } from './host-facts.ts';
import { validateMounts } from './mounts.ts';
import { validateContainerNamespaces, validateSandboxNamespaces } from './namespaces.ts';
import { validatePodResources, validateResources } from './resources.ts';
import { seccompChoice } from './seccomp.ts';
import { mergeSelinux, validateSelinux } from './selinux-label.ts';
import { validateSysctls } from './sysctl.ts';

/** A checked `config`: what the kubelet may leave out by mistake is there. */
export type ValidSandboxConfig = PodSandboxConfig & { readonly metadata: NonNullable<PodSandboxConfig['metadata']> };
export type ValidContainerConfig = ContainerConfig & {
  readonly metadata: NonNullable<ContainerConfig['metadata']>;
  readonly image: NonNullable<ContainerConfig['image']>;
};

/** Of labels and annotations each, names and values: four times what the API server takes for a pod's annotations. */
const MAX_MAP_BYTES = 1024 * 1024;

/** sethostname(2). */
const MAX_HOSTNAME = 64;

/**
 * Nothing is ignored silently: what is asked for and cannot be given is refused by name, what does not apply to this
 * host (labels without SELinux, swap without accounting) means nothing and passes.
 * @throws {CriError} `invalidArgument` (or `unimplemented` for what this version cannot do) naming the field.
 */
export function validateSandboxConfig(config: PodSandboxConfig | null, host: HostFacts): asserts config is ValidSandboxConfig {
  if (config === null) throw new CriError('invalidArgument', 'config: is missing');
  if (config.metadata === null) throw new CriError('invalidArgument', 'config.metadata: is missing');
  checkName('config.metadata.name', config.metadata.name);
  checkName('config.metadata.namespace', config.metadata.namespace);
  checkName('config.metadata.uid', config.metadata.uid);
  if (config.windows !== null) throw new CriError('invalidArgument', 'config.windows: this is no Windows host');
  checkHostname(config.hostname);
  if (config.log_directory !== '') checkAbsolute('config.log_directory', config.log_directory);
  checkDns(config);
  checkPorts(config);
  checkMapSize('config.labels', config.labels);
  checkMapSize('config.annotations', config.annotations);
  const { linux } = config;
  if (linux === null) return;
  checkCgroupParent(linux.cgroup_parent);
  for (const key of ['overhead', 'resources'] as const) validatePodResources(`config.linux.${key}`, linux[key], host);
  const security = linux.security_context;
  validateSysctls('config.linux.sysctls', linux.sysctls, security?.namespace_options ?? null);
  if (security === null) return;
  const field = 'config.linux.security_context';
  validateSandboxNamespaces(`${field}.namespace_options`, security.namespace_options);
  checkUser(field, { ...security, run_as_username: '' });
  seccompChoice(field, security);
  appArmorProfile(field, security, host);
  validateSelinux(field, security.selinux_options, host);
}

/**
 * @param sandbox the config that the container's pod runs with.
 * @param minMemoryBytes as for `validateResources`.
 * @throws {CriError} as `validateSandboxConfig`.
 */
export function validateContainerConfig(
  config: ContainerConfig | null,
  sandbox: PodSandboxConfig,
  host: HostFacts,
  minMemoryBytes: number,
): asserts config is ValidContainerConfig {
  if (config === null) throw new CriError('invalidArgument', 'config: is missing');
  if (config.metadata === null) throw new CriError('invalidArgument', 'config.metadata: is missing');
  checkName('config.metadata.name', config.metadata.name);
  if (config.image === null || config.image.image === '') throw new CriError('invalidArgument', 'config.image.image: is missing');
  if (config.windows !== null) throw new CriError('invalidArgument', 'config.windows: this is no Windows host');
  for (const word of [...config.command, ...config.args]) if (word.includes('\0')) throw invalidField('config.command', word, 'has a NUL in it');
  if (config.working_dir !== '') checkAbsolute('config.working_dir', config.working_dir);
  checkLogPath(config.log_path);
  checkMapSize('config.labels', config.labels);
  checkMapSize('config.annotations', config.annotations);
  validateEnvironment(config.envs);
  validateMounts(config.mounts);
  validateDevices(config.devices);
  validateCdi(config);
  if (!Object.values(Signal).includes(config.stop_signal)) throw invalidField('config.stop_signal', config.stop_signal, 'is no signal');
  validateResources('config.linux.resources', config.linux?.resources ?? null, host, minMemoryBytes);
  const security = config.linux?.security_context ?? null;
  if (security !== null) validateContainerSecurity('config.linux.security_context', security, sandbox, host);
}

function validateContainerSecurity(field: string, security: LinuxContainerSecurityContext, sandbox: PodSandboxConfig, host: HostFacts): void {
  const pod = sandbox.linux?.security_context ?? null;
  // api.proto, LinuxSandboxSecurityContext.privileged: must be true when a privileged container is to run in the pod.
  if (security.privileged && pod?.privileged !== true) throw invalidField(`${field}.privileged`, true, 'is more than the pod has');
  validateContainerNamespaces(`${field}.namespace_options`, security.namespace_options, pod?.namespace_options ?? null);
  validateCapabilities(`${field}.capabilities`, security.capabilities);
  checkUser(field, security);
  for (const list of ['masked_paths', 'readonly_paths'] as const) {
    for (const [index, path] of security[list].entries()) checkAbsolute(`${field}.${list}[${index}]`, path);
  }
  seccompChoice(field, security);
  // Privileged runs unconfined whatever is listed beside it.
  if (!security.privileged) appArmorProfile(field, security, host);
  validateSelinux(field, mergeSelinux(pod?.selinux_options ?? null, security.selinux_options), host);
}

type UserRequest = Pick<
  LinuxContainerSecurityContext,
  'run_as_user' | 'run_as_group' | 'run_as_username' | 'supplemental_groups' | 'supplemental_groups_policy'
>;

function checkUser(field: string, request: UserRequest): void {
  for (const key of ['run_as_user', 'run_as_group'] as const) {
    const value = request[key]?.value;
    if (value !== undefined && parseUserId(value) === undefined) throw invalidField(`${field}.${key}`, value, 'is no id from 0 to 4294967294');
  }
  if (request.run_as_user !== null && request.run_as_username !== '')
    throw invalidField(`${field}.run_as_username`, request.run_as_username, 'stands beside run_as_user');
  if (request.run_as_group !== null && request.run_as_user === null && request.run_as_username === '') {
    throw invalidField(`${field}.run_as_group`, request.run_as_group.value, 'needs run_as_user or run_as_username');
  }
  for (const [index, gid] of request.supplemental_groups.entries()) {
    if (parseUserId(gid) === undefined) throw invalidField(`${field}.supplemental_groups[${index}]`, gid, 'is no id from 0 to 4294967294');
  }
  const policy = request.supplemental_groups_policy;
  if (!Object.values(SupplementalGroupsPolicy).includes(policy)) throw invalidField(`${field}.supplemental_groups_policy`, policy, 'is no policy');
}

/** Names become parts of paths and log lines. 253 is the longest that Kubernetes lets an object have. */
function checkName(field: string, name: string): void {
  if (name === '') throw new CriError('invalidArgument', `${field}: is empty`);
  if (name.length > 253) throw invalidField(field, name, 'is longer than 253 characters');
  if (/[/\p{Cc}]/u.test(name) || name === '.' || name === '..') throw invalidField(field, name, 'has a slash or a control character in it');
}

function checkAbsolute(field: string, path: string): void {
  if (!path.startsWith('/') || path.includes('\0')) throw invalidField(field, path, 'is no absolute path');
}

function checkHostname(hostname: string): void {
  if (hostname.length > MAX_HOSTNAME) throw invalidField('config.hostname', hostname, `is longer than ${MAX_HOSTNAME} characters`);
  if (!/^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$/.test(hostname)) throw invalidField('config.hostname', hostname, 'is no host name');
}

/** Each becomes a word of resolv.conf, where a line end would start an entry of its own. */
function checkDns({ dns_config }: PodSandboxConfig): void {
  for (const list of ['servers', 'searches', 'options'] as const) {
    for (const [index, word] of (dns_config?.[list] ?? []).entries()) {
      if (!/^[!-~]{1,255}$/.test(word)) throw invalidField(`config.dns_config.${list}[${index}]`, word, 'is no word for resolv.conf');
    }
  }
}

function checkPorts({ port_mappings }: PodSandboxConfig): void {
  for (const [index, { protocol, container_port, host_port }] of port_mappings.entries()) {
    const field = `config.port_mappings[${index}]`;
    if (!Object.values(Protocol).includes(protocol)) throw invalidField(`${field}.protocol`, protocol, 'is no protocol');
    if (!isPort(container_port)) throw invalidField(`${field}.container_port`, container_port, 'is no port');
    if (!isPort(host_port)) throw invalidField(`${field}.host_port`, host_port, 'is no port');
  }
}

/** 0 is none. */
function isPort(port: number): boolean {
  return port >= 0 && port <= 65_535;
}

/** A cgroupfs path, or the slice that the systemd driver is told by name or by path. */
function checkCgroupParent(parent: string): void {
  const field = 'config.linux.cgroup_parent';
  if (parent === '') return;
  if (!parent.startsWith('/') && !/^[^/]+\.slice$/.test(parent)) throw invalidField(field, parent, 'is neither an absolute path nor a slice');
  if (parent.split('/').some((part) => part === '..' || part === '.') || /\p{Cc}/u.test(parent)) throw invalidField(field, parent, 'is no plain path');
}

function checkLogPath(path: string): void {
  if (path.startsWith('/') || path.includes('\0') || path.split('/').includes('..')) {
    throw invalidField('config.log_path', path, "does not stay in the pod's log directory");
  }
}

/** Of labels or annotations. @throws {CriError} `invalidArgument` when they are too large to keep. */
export function checkMapSize(field: string, map: Readonly<Record<string, string>>): void {
  const bytes = Object.entries(map).reduce((sum, [key, value]) => sum + Buffer.byteLength(key) + Buffer.byteLength(value), 0);
  if (bytes > MAX_MAP_BYTES) throw invalidField(field, bytes, `bytes are more than ${MAX_MAP_BYTES}`);
}
