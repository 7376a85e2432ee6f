import type { Config, EffectiveValue, LoadedConfig, RuntimeHandler } from '../config.ts';
import { checkTogether } from './check.ts';
import type { Host } from './host.ts';
import { BUILT_IN_RUNTIMES, HANDLER_SECTION, handlerKeys, type Key, keys } from './keys.ts';
import { type ConfigText, formatPlace, Settings } from './settings.ts';

/**
 * The configuration that these texts and overrides make, on this machine; `values` are in the order of the sample.
 * @throws {CriError} `invalidArgument` with every problem, one per line.
 */
export function resolve(files: readonly ConfigText[], overrides: Readonly<Record<string, string>>, host: Host): LoadedConfig {
  const settings = new Settings(files, overrides);
  const values: EffectiveValue[] = [];
  let runroot = '';
  const take = <T>(section: string, key: string, { type, fallback, doc }: Key<T>): T => {
    const place = settings.placeOf(section, key);
    const value = settings.read(section, key, type) ?? fallback(host, runroot);
    values.push({ section, key, items: type.format(value), list: type.list, source: place === undefined ? 'default' : formatPlace(place), doc });
    return value;
  };
  const { berth, api, runtime, image, network, metrics } = keys;
  const root = take('berth', 'root', berth.root);
  runroot = take('berth', 'runroot', berth.runroot);
  const config: Config = {
    root,
    runroot,
    logLevel: take('berth', 'log_level', berth.log_level),
    api: {
      listen: take('api', 'listen', api.listen),
      grpcMaxRecvMsgSize: take('api', 'grpc_max_recv_msg_size', api.grpc_max_recv_msg_size),
      grpcMaxSendMsgSize: take('api', 'grpc_max_send_msg_size', api.grpc_max_send_msg_size),
      streamAddress: take('api', 'stream_address', api.stream_address),
      streamPort: take('api', 'stream_port', api.stream_port),
      streamEnableTls: take('api', 'stream_enable_tls', api.stream_enable_tls),
      streamTlsCert: take('api', 'stream_tls_cert', api.stream_tls_cert),
      streamTlsKey: take('api', 'stream_tls_key', api.stream_tls_key),
      streamTlsCa: take('api', 'stream_tls_ca', api.stream_tls_ca),
      tlsMinVersion: take('api', 'tls_min_version', api.tls_min_version),
      streamIdleTimeoutMs: take('api', 'stream_idle_timeout', api.stream_idle_timeout),
      streamCreationTimeoutMs: take('api', 'stream_creation_timeout', api.stream_creation_timeout),
    },
    runtime: {
      defaultRuntime: take('runtime', 'default_runtime', runtime.default_runtime),
      cgroupManager: take('runtime', 'cgroup_manager', runtime.cgroup_manager),
      conmon: take('runtime', 'conmon', runtime.conmon),
      monitorCgroup: take('runtime', 'conmon_cgroup', runtime.conmon_cgroup),
      namespacesDir: take('runtime', 'namespaces_dir', runtime.namespaces_dir),
      disableHostportMapping: take('runtime', 'disable_hostport_mapping', runtime.disable_hostport_mapping),
      dropInfraCtr: take('runtime', 'drop_infra_ctr', runtime.drop_infra_ctr),
      defaultCapabilities: take('runtime', 'default_capabilities', runtime.default_capabilities),
      defaultSysctls: take('runtime', 'default_sysctls', runtime.default_sysctls),
      defaultEnv: take('runtime', 'default_env', runtime.default_env),
      defaultUlimits: take('runtime', 'default_ulimits', runtime.default_ulimits),
      apparmorProfile: take('runtime', 'apparmor_profile', runtime.apparmor_profile),
      selinux: take('runtime', 'selinux', runtime.selinux),
      hostnetworkDisableSelinux: take('runtime', 'hostnetwork_disable_selinux', runtime.hostnetwork_disable_selinux),
      seccompProfile: take('runtime', 'seccomp_profile', runtime.seccomp_profile),
      hooksDir: take('runtime', 'hooks_dir', runtime.hooks_dir),
      cdiSpecDirs: take('runtime', 'cdi_spec_dirs', runtime.cdi_spec_dirs),
      deviceOwnershipFromSecurityContext: take('runtime', 'device_ownership_from_security_context', runtime.device_ownership_from_security_context),
      pidsLimit: take('runtime', 'pids_limit', runtime.pids_limit),
      creationTimeoutMs: take('runtime', 'creation_timeout', runtime.creation_timeout),
      unclaimedTimeoutMs: take('runtime', 'unclaimed_timeout', runtime.unclaimed_timeout),
      runtimes: takeHandlers(settings, host, take),
    },
    image: {
      pauseImage: take('image', 'pause_image', image.pause_image),
      pauseCommand: take('image', 'pause_command', image.pause_command),
      pauseBinary: take('image', 'pause_binary', image.pause_binary),
      globalAuthFile: take('image', 'global_auth_file', image.global_auth_file),
      pauseImageAuthFile: take('image', 'pause_image_auth_file', image.pause_image_auth_file),
      registriesConf: take('image', 'registries_conf', image.registries_conf),
      shortNameMode: take('image', 'short_name_mode', image.short_name_mode),
      certsDirs: take('image', 'certs_dirs', image.certs_dirs),
      signaturePolicy: take('image', 'signature_policy', image.signature_policy),
      signaturePolicyDir: take('image', 'signature_policy_dir', image.signature_policy_dir),
      pinnedImages: take('image', 'pinned_images', image.pinned_images),
      maxParallelDownloads: take('image', 'max_parallel_downloads', image.max_parallel_downloads),
      pullProgressTimeoutMs: take('image', 'pull_progress_timeout', image.pull_progress_timeout),
    },
    network: {
      cniDefaultNetwork: take('network', 'cni_default_network', network.cni_default_network),
      cniAdditionalNetworks: take('network', 'cni_additional_networks', network.cni_additional_networks),
      networkDir: take('network', 'network_dir', network.network_dir),
      pluginDirs: take('network', 'plugin_dirs', network.plugin_dirs),
      cniAddTimeoutMs: take('network', 'cni_add_timeout', network.cni_add_timeout),
      cniDelTimeoutMs: take('network', 'cni_del_timeout', network.cni_del_timeout),
      cniDelGiveUpMs: take('network', 'cni_del_give_up', network.cni_del_give_up),
      cniParallel: take('network', 'cni_parallel', network.cni_parallel),
      cniStatusGracePeriodMs: take('network', 'cni_status_grace_period', network.cni_status_grace_period),
    },
    metrics: {
      enableMetrics: take('metrics', 'enable_metrics', metrics.enable_metrics),
      metricsHost: take('metrics', 'metrics_host', metrics.metrics_host),
      metricsPort: take('metrics', 'metrics_port', metrics.metrics_port),
      metricsSocket: take('metrics', 'metrics_socket', metrics.metrics_socket),
    },
  };
  checkTogether(config, settings, host);
  settings.throwProblems();
  return { config, values };
}

type Take = <T>(section: string, key: string, spec: Key<T>) => T;

/** The built-in handlers whose program is there, and those that have a section. */
function takeHandlers(settings: Settings, host: Host, take: Take): Readonly<Record<string, RuntimeHandler>> {
  const present = BUILT_IN_RUNTIMES.filter((name) => host.findProgram(name) !== undefined);
  const handlers: Record<string, RuntimeHandler> = {};
  for (const name of new Set([...present, ...settings.handlers.keys()])) {
    const section = `${HANDLER_SECTION}${name}`;
    const specs = handlerKeys(name);
    const runtimePath = take(section, 'runtime_path', specs.runtime_path);
    if (runtimePath === '') settings.refuse(section, 'runtime_path', `there is no program ${name} on PATH`, settings.handlers.get(name));
    else if (!host.isExecutable(runtimePath)) settings.refuse(section, 'runtime_path', `${runtimePath} is not an executable file`);
    handlers[name] = {
      runtimePath,
      runtimeRoot: take(section, 'runtime_root', specs.runtime_root),
      privilegedWithoutHostDevices: take(section, 'privileged_without_host_devices', specs.privileged_without_host_devices),
      allowedAnnotations: take(section, 'allowed_annotations', specs.allowed_annotations),
      execCpuAffinity: take(section, 'exec_cpu_affinity', specs.exec_cpu_affinity),
      containerMinMemoryBytes: take(section, 'container_min_memory', specs.container_min_memory),
    };
  }
  return handlers;
}
