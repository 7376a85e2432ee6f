import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type ContainerConfig,
  type IDMapping,
  type Init,
  type LinuxContainerResources,
  type LinuxContainerSecurityContext,
  type LinuxSandboxSecurityContext,
  NamespaceMode,
  type PodSandboxConfig,
  Protocol,
  SecurityProfileProfileType,
  type UserNamespace,
} from '../../proto/cri.ts';
import type { Daemon } from './daemon.ts';
import { BUSYBOX } from './images.ts';

/** A pod as a kubelet holds it: what it sends to the runtime, and the files that it makes for it. */
export interface Pod {
  readonly config: Init<PodSandboxConfig> & {
    readonly metadata: { readonly name: string; readonly namespace: string; readonly uid: string; readonly attempt: number };
  };
  /** What /var/lib/kubelet/pods/<uid> is on a node. */
  readonly directory: string;
  readonly logDirectory: string;
  readonly hostNetwork: boolean;
}

export interface PodOptions {
  readonly name?: string;
  readonly uid?: string;
  readonly attempt?: number;
  readonly hostNetwork?: boolean;
  readonly shareProcessNamespace?: boolean;
  /** One of its containers is going to be privileged. */
  readonly privileged?: boolean;
  readonly hostPorts?: readonly { readonly container: number; readonly host: number }[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly sysctls?: Readonly<Record<string, string>>;
  /** Merged over what an ordinary pod has. */
  readonly security?: Init<LinuxSandboxSecurityContext>;
  /** In place of the pod's own. */
  readonly cgroupParent?: string;
  /** The first id outside of the pod's own user namespace, as the kubelet gives it: a multiple of 65536. */
  readonly usersFrom?: number;
}

/** An ordinary pod of namespace "default", or with `hostNetwork` a static one such as kubeadm's; its log directory is made. */
export function makePod(daemon: Daemon, options: PodOptions = {}): Pod {
  const { name = `web-${randomBytes(2).toString('hex')}`, uid = randomUUID(), attempt = 0, hostNetwork = false } = options;
  const namespace = hostNetwork ? 'kube-system' : 'default';
  const directory = join(daemon.directory, 'kubelet/pods', uid);
  const logDirectory = join(daemon.directory, 'log/pods', `${namespace}_${name}_${uid}`);
  mkdirSync(join(directory, 'containers'), { recursive: true });
  mkdirSync(logDirectory, { recursive: true, mode: 0o755 });
  writeFileSync(join(directory, 'etc-hosts'), `# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n`, { mode: 0o644 });
  const pid = options.shareProcessNamespace === true ? NamespaceMode.POD : NamespaceMode.CONTAINER;
  return {
    directory,
    logDirectory,
    hostNetwork,
    config: {
      metadata: { name, namespace, uid, attempt },
      hostname: hostNetwork ? '' : name,
      log_directory: logDirectory,
      dns_config: hostNetwork
        ? { servers: ['192.0.2.53'], searches: ['example.net'], options: [] }
        : { servers: ['10.96.0.10'], searches: ['default.svc.cluster.local', 'svc.cluster.local', 'cluster.local'], options: ['ndots:5'] },
      port_mappings: [
        { protocol: Protocol.TCP, container_port: 8080, host_port: 0, host_ip: '' },
        ...(options.hostPorts ?? []).map(({ container, host }) => ({ protocol: Protocol.TCP, container_port: container, host_port: host, host_ip: '' })),
      ],
      labels: { ...options.labels, 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': namespace, 'io.kubernetes.pod.uid': uid },
      annotations: options.annotations ?? { 'kubernetes.io/config.seen': '2026-01-01T00:00:00.000000000Z', 'kubernetes.io/config.source': 'api' },
      linux: {
        cgroup_parent: options.cgroupParent ?? `${daemon.cgroup}/burstable/pod${uid}`,
        sysctls: options.sysctls ?? {},
        overhead: {},
        resources: { cpu_period: '100000', cpu_shares: '102', memory_limit_in_bytes: String(64 * 1024 ** 2) },
        security_context: {
          namespace_options: {
            network: hostNetwork ? NamespaceMode.NODE : NamespaceMode.POD,
            ipc: NamespaceMode.POD,
            pid,
            userns_options: userNamespace(options.usersFrom),
          },
          privileged: options.privileged ?? false,
          seccomp: { profile_type: SecurityProfileProfileType.RuntimeDefault },
          ...options.security,
        },
      },
    },
  };
}

/** The ids that a kubelet gives a pod with a user namespace. */
export function idMapping(host_id: number): IDMapping {
  return { host_id, container_id: 0, length: 65_536 };
}

function userNamespace(usersFrom: number | undefined): Init<UserNamespace> {
  if (usersFrom === undefined) return { mode: NamespaceMode.NODE };
  return { mode: NamespaceMode.POD, uids: [idMapping(usersFrom)], gids: [idMapping(usersFrom)] };
}

export interface ContainerOptions {
  readonly name?: string;
  readonly attempt?: number;
  readonly image?: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  /** In place of what an ordinary container has. */
  readonly resources?: Init<LinuxContainerResources>;
  /** Merged over what an ordinary container has. */
  readonly security?: Init<LinuxContainerSecurityContext>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly stdin?: boolean;
  readonly stdinOnce?: boolean;
  readonly tty?: boolean;
}

/** The paths that a kubelet hides or makes read-only unless the pod says otherwise. */
const MASKED = ['asound', 'acpi', 'kcore', 'keys', 'latency_stats', 'timer_list', 'timer_stats', 'sched_debug', 'scsi'].map((name) => `/proc/${name}`);
const READ_ONLY = ['bus', 'fs', 'irq', 'sys', 'sysrq-trigger'].map((name) => `/proc/${name}`);

/**
 * A container of the pod, `sleep 10000` unless told. As a kubelet does, each call makes a new file for the termination
 * message, so that two calls for the same container differ in that one path.
 */
export function makeContainer(
  pod: Pod,
  options: ContainerOptions = {},
): Init<ContainerConfig> & { readonly metadata: { readonly name: string; readonly attempt: number } } {
  const { name = 'main', attempt = 0, image = BUSYBOX } = options;
  const { metadata, linux } = pod.config;
  const termination = join(pod.directory, 'containers', name, randomBytes(4).toString('hex'));
  mkdirSync(join(pod.directory, 'containers', name), { recursive: true });
  writeFileSync(termination, '', { mode: 0o666 });
  mkdirSync(join(pod.logDirectory, name), { recursive: true, mode: 0o755 });
  const secrets = join(pod.directory, 'volumes/token');
  mkdirSync(secrets, { recursive: true });
  writeFileSync(join(secrets, 'token'), 'a token');
  // In a pod with a user namespace every mount has its mappings.
  const users = linux?.security_context?.namespace_options?.userns_options;
  const mappings = { uidMappings: users?.uids ?? [], gidMappings: users?.gids ?? [] };
  return {
    metadata: { name, attempt },
    image: { image, user_specified_image: image },
    command: options.command ?? (options.args === undefined ? ['sleep', '10000'] : []),
    args: options.args ?? [],
    envs: [
      { key: 'KUBERNETES_SERVICE_HOST', value: Buffer.from('10.96.0.1') },
      { key: 'KUBERNETES_SERVICE_PORT', value: Buffer.from('443') },
    ],
    mounts: [
      { container_path: '/var/run/secrets/kubernetes.io/serviceaccount', host_path: secrets, readonly: true, ...mappings },
      { container_path: '/etc/hosts', host_path: join(pod.directory, 'etc-hosts'), selinux_relabel: true, ...mappings },
      { container_path: '/dev/termination-log', host_path: termination, ...mappings },
    ],
    labels: {
      'io.kubernetes.pod.name': metadata.name,
      'io.kubernetes.pod.namespace': metadata.namespace,
      'io.kubernetes.pod.uid': metadata.uid,
      'io.kubernetes.container.name': name,
    },
    annotations: {
      'io.kubernetes.container.hash': '5d1a0a0b',
      'io.kubernetes.container.restartCount': String(attempt),
      'io.kubernetes.container.terminationMessagePath': '/dev/termination-log',
      'io.kubernetes.container.terminationMessagePolicy': 'File',
      'io.kubernetes.container.ports': '[{"containerPort":8080,"protocol":"TCP"}]',
      'io.kubernetes.pod.terminationGracePeriod': '30',
      ...options.annotations,
    },
    log_path: `${name}/${attempt}.log`,
    stdin: options.stdin ?? false,
    stdin_once: options.stdinOnce ?? false,
    tty: options.tty ?? false,
    linux: {
      resources: options.resources ?? {
        cpu_period: '100000',
        cpu_shares: '102',
        memory_limit_in_bytes: String(64 * 1024 ** 2),
        oom_score_adj: pod.hostNetwork ? '-997' : '999',
        hugepage_limits: [{ page_size: '2MB', limit: '0' }],
      },
      security_context: {
        namespace_options: linux?.security_context?.namespace_options ?? {},
        run_as_user: { value: '0' },
        masked_paths: [...MASKED, '/sys/firmware', '/sys/devices/virtual/powercap'],
        readonly_paths: READ_ONLY,
        seccomp: { profile_type: SecurityProfileProfileType.RuntimeDefault },
        ...options.security,
      },
    },
  };
}

/** A pod with one running container. */
export interface RunningPod {
  readonly pod: Pod;
  readonly podId: string;
  readonly containerId: string;
  readonly container: ReturnType<typeof makeContainer>;
  /** Absolute path of the container's log. */
  readonly logPath: string;
}

/** Pulls the image where it is not there, and makes and starts what a kubelet would. */
export async function startPod(daemon: Daemon, podOptions: PodOptions = {}, containerOptions: ContainerOptions = {}): Promise<RunningPod> {
  const pod = makePod(daemon, podOptions);
  const podId = await runPod(daemon, pod);
  return { pod, podId, ...(await startContainer(daemon, pod, podId, containerOptions)) };
}

/** RunPodSandbox. */
export async function runPod({ cri }: Daemon, pod: Pod): Promise<string> {
  const { pod_sandbox_id } = await cri.RunPodSandbox({ config: pod.config });
  return pod_sandbox_id;
}

/** CreateContainer and StartContainer, with the image pulled first where it is not there. */
export async function startContainer(daemon: Daemon, pod: Pod, podId: string, options: ContainerOptions = {}) {
  const { cri } = daemon;
  await ensureImage(daemon, options.image ?? BUSYBOX);
  const container = makeContainer(pod, options);
  const { container_id: containerId } = await cri.CreateContainer({ pod_sandbox_id: podId, config: container, sandbox_config: pod.config });
  await cri.StartContainer({ container_id: containerId });
  return { containerId, container, logPath: join(pod.logDirectory, container.log_path ?? '') };
}

export async function ensureImage({ cri }: Daemon, image: string): Promise<string> {
  const { image: found } = await cri.ImageStatus({ image: { image } });
  if (found !== null) return found.id;
  const { image_ref } = await cri.PullImage({ image: { image } });
  return image_ref;
}

/** One line of a log in the CRI's format. */
export interface LogLine {
  readonly time: string;
  readonly stream: string;
  /** `F` full, `P` partial. */
  readonly tag: string;
  readonly text: string;
}

/** The lines of a container's log; none where the file is missing. */
export function readLog(path: string): LogLine[] {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines
    .filter((line) => line !== '')
    .map((line) => {
      const [time = '', stream = '', tag = ''] = line.split(' ', 3);
      return { time, stream, tag, text: line.slice(time.length + stream.length + tag.length + 3) };
    });
}
