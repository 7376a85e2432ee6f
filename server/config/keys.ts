import type { Host } from './host.ts';
import {
  bool,
  capabilities,
  cgroupOrNothing,
  duration,
  environment,
  integer,
  ipAddress,
  oneOf,
  path,
  pathOrNothing,
  paths,
  size,
  socket,
  socketOrNothing,
  sysctls,
  text,
  texts,
  ulimits,
  type ValueType,
  words,
} from './values.ts';

/** One key: what it holds, what it is when nobody sets it, and what the sample says about it. */
export interface Key<T> {
  readonly type: ValueType<T>;
  /** `runroot` is the one that applies. */
  readonly fallback: (host: Host, runroot: string) => T;
  readonly doc: string;
}

function key<T>(type: ValueType<T>, fallback: T, doc: string): Key<T> {
  return { type, fallback: () => fallback, doc };
}

const MIB = 1024 ** 2;
const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
/** gRPC's message length is a 32-bit number, of which its libraries use 31 bits. */
const messageSize = size(MIB, 2 ** 31 - 1);

/** The handlers that are there without configuration, where their binary is on PATH; the first one found is the default. */
export const BUILT_IN_RUNTIMES = ['crun', 'runc'] as const;

/** Every section and key but those of the handlers. The names are CRI-O's where the meaning is the same. */
export const keys = {
  berth: {
    root: key(path, '/var/lib/berth', 'Images, layers and records. Survives a reboot.'),
    runroot: key(path, '/run/berth', 'Bundles, exit files and sockets. Must not survive a reboot: it tells that one happened.'),
    log_level: key(oneOf('debug', 'info', 'warn', 'error'), 'info', 'One of debug, info, warn, error.'),
  },
  api: {
    listen: { type: socket, fallback: (_host: Host, runroot: string) => `${runroot}/berth.sock`, doc: 'The unix socket of the CRI; below runroot unless set.' },
    grpc_max_recv_msg_size: key(messageSize, 80 * MIB, 'Largest request taken.'),
    grpc_max_send_msg_size: key(messageSize, 80 * MIB, 'Largest answer given.'),
    stream_address: key(ipAddress, '127.0.0.1', 'Where exec, attach and port-forward are served to the kubelet.'),
    stream_port: key(integer(0, 65_535), 0, 'Their port; 0 takes a free one.'),
    stream_enable_tls: key(bool, false, 'Serves them by TLS, with the next two files.'),
    stream_tls_cert: key(pathOrNothing, '', 'Certificate chain (PEM); it and the key are read again when they change.'),
    stream_tls_key: key(pathOrNothing, '', 'Private key of the certificate (PEM).'),
    stream_tls_ca: key(pathOrNothing, '', 'Clients need a certificate signed by one of these (PEM). Empty: they need none.'),
    tls_min_version: key(oneOf('VersionTLS12', 'VersionTLS13'), 'VersionTLS12', 'Oldest TLS taken: VersionTLS12 or VersionTLS13.'),
    stream_idle_timeout: key(duration(1_000, 7 * DAY), 4 * 60 * MINUTE, 'A session in which nothing passes for this long is ended.'),
    stream_creation_timeout: key(duration(1_000, 10 * MINUTE), 30_000, 'How long a client may take to open the streams of a session.'),
  },
  runtime: {
    default_runtime: {
      type: text,
      fallback: (host: Host): string => BUILT_IN_RUNTIMES.find((name) => host.findProgram(name) !== undefined) ?? BUILT_IN_RUNTIMES[0],
      doc: 'Handler of pods that name none. Unless set: crun, or runc where crun is not installed.',
    },
    cgroup_manager: {
      type: oneOf('systemd', 'cgroupfs'),
      fallback: (host: Host) => (host.systemd ? 'systemd' : 'cgroupfs'),
      doc: 'Who makes cgroups: systemd or cgroupfs. Unless set: systemd where it runs as init.',
    } satisfies Key<'systemd' | 'cgroupfs'>,
    conmon: {
      type: path,
      fallback: (host: Host): string => host.findProgram('conmon') ?? '/usr/bin/conmon',
      doc: 'The monitor of a container; found on PATH unless set.',
    },
    conmon_cgroup: key(cgroupOrNothing, '', "Cgroup of the monitors: absolute, or relative to the daemon's own. Empty: the daemon's own."),
    namespaces_dir: key(path, '/run', 'Pinned namespaces lie in netns, ipcns, utsns and userns below it.'),
    disable_hostport_mapping: key(bool, false, 'Pods get no host ports, whatever they ask for.'),
    drop_infra_ctr: key(bool, false, 'No pause process for pods that do not share a PID namespace.'),
    default_capabilities: key(
      capabilities,
      ['CHOWN', 'DAC_OVERRIDE', 'FSETID', 'FOWNER', 'SETGID', 'SETUID', 'SETPCAP', 'NET_BIND_SERVICE', 'KILL'].map((name) => `CAP_${name}`),
      'What a container has that asks for nothing.',
    ),
    default_sysctls: key(sysctls, {}, 'name=value, set in every pod that has the namespace for it; only sysctls of a namespace.'),
    default_env: key(environment, [], "NAME=value, below the image's and the pod's."),
    default_ulimits: key(ulimits, [], "name=soft:hard, such as nofile=1024:4096, in every container. Unset ones are the daemon's own."),
    apparmor_profile: key(text, 'berth-default', 'Of containers that ask for none. berth-default is loaded at start; another one has to be loaded.'),
    selinux: key(bool, true, 'Labels containers and their files, each pod with categories of its own, where the kernel has SELinux.'),
    hostnetwork_disable_selinux: key(bool, true, "Pods on the node's network are not confined by SELinux."),
    seccomp_profile: key(pathOrNothing, '', 'Profile behind RuntimeDefault. Empty: the built-in one.'),
    hooks_dir: key(
      paths,
      ['/usr/share/containers/oci/hooks.d', '/etc/containers/oci/hooks.d'],
      'OCI hooks (schema 1.0.0) for the containers that they are meant for; a file of a later directory replaces one of the same name.',
    ),
    cdi_spec_dirs: key(paths, ['/etc/cdi', '/var/run/cdi'], 'Where CDI devices are described; the later directory wins.'),
    device_ownership_from_security_context: key(bool, false, 'The devices that a container names belong to its run_as_user and run_as_group.'),
    pids_limit: key(integer(0, 4_194_304), 0, 'Processes a container may have; 0 sets no limit (the kubelet limits the pod).'),
    creation_timeout: key(duration(10_000, DAY), 4 * MINUTE, 'A pod or container still being made after this long is undone.'),
    unclaimed_timeout: key(duration(10_000, DAY), 5 * MINUTE, 'What was made after its caller had gone is kept this long for a retry.'),
  },
  image: {
    pause_image: key(text, '', 'Image of the pause process. Empty: the built-in one, which needs no registry.'),
    pause_command: key(words, [], "Its command line, split at blanks. Empty: the image's own."),
    pause_binary: key(path, '/usr/bin/catatonit', 'Static program of the built-in pause, run with -P.'),
    global_auth_file: key(pathOrNothing, '', 'Credentials (auth.json or Docker config.json) for pulls that bring none.'),
    pause_image_auth_file: key(pathOrNothing, '', 'Credentials for pause_image, before those of global_auth_file.'),
    registries_conf: key(path, '/etc/containers/registries.conf', 'Registries and mirrors, version 2; drop-ins lie in the same path with .d.'),
    short_name_mode: key(
      oneOf('', 'enforcing', 'permissive', 'disabled'),
      '',
      'Names without a registry that may mean several images: enforcing refuses them, the others try all. Empty: as registries_conf says, else enforcing.',
    ),
    certs_dirs: key(
      paths,
      ['/etc/containers/certs.d', '/etc/docker/certs.d'],
      'Certificates of registries: HOST:PORT/ with *.crt (authorities), *.cert and *.key (to show); the first with a directory for the host counts.',
    ),
    signature_policy: key(
      pathOrNothing,
      '',
      'What images must show (policy.json). Empty: /etc/containers/policy.json, or anything goes where that is not there.',
    ),
    signature_policy_dir: key(pathOrNothing, '/etc/berth/policies', 'NAMESPACE.json in it is the policy for the pods of that namespace.'),
    pinned_images: key(texts, [], 'Images the kubelet must not remove: exact, name*, or *part*.'),
    max_parallel_downloads: key(integer(1, 64), 6, 'Layers fetched at the same time.'),
    pull_progress_timeout: key(duration(1_000, DAY), MINUTE, 'A pull that makes no progress (1 KiB) for this long is cancelled.'),
  },
  network: {
    cni_default_network: key(text, '', 'Name of the CNI network for pods. Empty: the first valid file of network_dir.'),
    cni_additional_networks: key(texts, [], 'Names of networks that each pod gets beside it, as eth1, eth2, …; their addresses are not told to the kubelet.'),
    network_dir: key(path, '/etc/cni/net.d', 'CNI configuration lists.'),
    plugin_dirs: key(paths, ['/opt/cni/bin', '/usr/libexec/cni', '/usr/lib/cni'], 'Where CNI plugins are looked for, in this order.'),
    cni_add_timeout: key(duration(1_000, DAY), 90_000, 'For the whole chain of plugins of a pod.'),
    cni_del_timeout: key(duration(1_000, DAY), MINUTE, 'For the whole chain of plugins of a pod.'),
    cni_del_give_up: key(duration(0, 365 * DAY), 0, 'So long after the first failure a DEL is given up, with a warning, and the pod let go. 0s: never.'),
    cni_parallel: key(integer(0, 10_000), 32, 'Pods whose ADD runs at the same time, and pods whose DEL does. 0: all.'),
    cni_status_grace_period: key(
      duration(0, DAY),
      10_000,
      'So long STATUS may fail before the node is told that its network is not ready. 0s: it is asked until it succeeds, and not again.',
    ),
  },
  metrics: {
    enable_metrics: key(bool, false, 'Serves Prometheus metrics at /metrics, and at /images/pulls, as JSON, the image pulls under way.'),
    metrics_host: key(text, '127.0.0.1', 'Address the metrics are served on.'),
    metrics_port: key(integer(0, 65_535), 9090, 'Port the metrics are served on; 0 takes a free one.'),
    metrics_socket: key(socketOrNothing, '', 'A unix socket to serve them on as well.'),
  },
} as const;

/**
 * The smallest memory limits that containers start with and run a command under, by handler's name, with room. Measured on two
 * CPUs with cgroup v1: crun 1.8 needs 384 KiB, runc 1.1 and 1.3 need 4 MiB. runc's init is a Go program, which takes more with
 * every CPU; 12 MiB is what CRI-O asks for it.
 */
const MIN_MEMORY_BYTES: Readonly<Record<string, number>> = { crun: MIB / 2 };
const OTHERS_MIN_MEMORY_BYTES = 12 * MIB;

/** The keys of one `[runtime.runtimes.NAME]` section; the fallbacks of its paths depend on NAME. */
export function handlerKeys(name: string) {
  return {
    runtime_path: {
      type: path,
      fallback: (host: Host): string => host.findProgram(name) ?? '',
      doc: 'The OCI runtime; a program called NAME on PATH unless set.',
    },
    runtime_root: {
      type: path,
      fallback: (_host: Host, runroot: string) => `${runroot}/runtimes/${name}`,
      doc: 'Where it keeps its state; below runroot unless set.',
    },
    privileged_without_host_devices: key(bool, false, "Privileged containers do not get the host's devices."),
    allowed_annotations: key(texts, [], 'Annotations of pods and containers that it is given: names, or beginnings with *.'),
    exec_cpu_affinity: key(oneOf('', 'first'), '', "Commands run on the first CPU of the container's cpuset (first), or on all."),
    container_min_memory: key(
      size(0, 1024 ** 4),
      MIN_MEMORY_BYTES[name] ?? OTHERS_MIN_MEMORY_BYTES,
      'Smaller memory limits of containers are refused; 0 takes any. Unless set: 512KiB for crun, 12MiB for all others.',
    ),
  };
}

/** What comes before NAME in the section of a handler. */
export const HANDLER_SECTION = 'runtime.runtimes.';
