import type {
  ContainerStats,
  ContainerStatsFilter,
  CpuUsage,
  Init,
  MemoryUsage,
  NetworkInterfaceUsage,
  PodSandboxStats,
  PodSandboxStatsFilter,
  PsiStats,
  SwapUsage,
} from '../../proto/cri.ts';
import type { Handler, StreamHandler } from '../call.ts';
import type { ContainerRecord } from '../container/container.ts';
import { type InterfaceStats, readNetStats } from '../container/net-stats.ts';
import type { StatsCollector, UsageSample } from '../container/stats.ts';
import type { WritableLayerUsage } from '../container/writable-usage.ts';
import type { Pressure } from '../oci/cgroup-stats.ts';
import type { Parts } from '../parts.ts';
import type { SandboxRecord } from '../sandbox/sandbox.ts';
import { isVisible, matchesLabels, requireContainer, requireSandbox } from './lookup.ts';
import { sendPortions } from './portions.ts';

/** Everything comes from files of the kernel and from memory; no process is started and no tree walked. */
export interface StatsParts extends Pick<Parts, 'containers' | 'sandboxes' | 'doomed' | 'storage' | 'cgroups'> {
  readonly collector: StatsCollector;
  readonly writable: Pick<WritableLayerUsage, 'get'>;
}

export const containerStats =
  (parts: StatsParts): Handler<'ContainerStats'> =>
  async ({ container_id }) => ({ stats: await statsOf(parts, await requireContainer(parts, container_id)) });

export const listContainerStats =
  (parts: StatsParts): Handler<'ListContainerStats'> =>
  async ({ filter }) => ({ stats: await Promise.all(selectContainers(parts, filter).map((container) => statsOf(parts, container))) });

/** api.proto, StreamContainerStats: as the list, each portion measured when the client takes it. */
export const streamContainerStats =
  (parts: StatsParts): StreamHandler<'StreamContainerStats'> =>
  async ({ filter }, _call, send) => {
    const messageOf = async (portion: readonly ContainerRecord[]) => ({ container_stats: await Promise.all(portion.map((item) => statsOf(parts, item))) });
    await sendPortions(selectContainers(parts, filter), messageOf, send);
  };

function selectContainers(parts: StatsParts, filter: ContainerStatsFilter | null): ContainerRecord[] {
  return [...parts.containers.values()].filter(
    (container) =>
      isVisible(parts, container) &&
      container.id.startsWith(filter?.id ?? '') &&
      container.sandboxId.startsWith(filter?.pod_sandbox_id ?? '') &&
      matchesLabels(container.labels, filter?.label_selector ?? {}) &&
      container.state.name === 'running',
  );
}

export const podSandboxStats =
  (parts: StatsParts): Handler<'PodSandboxStats'> =>
  async ({ pod_sandbox_id }) => ({ stats: await podStatsOf(parts, await requireSandbox(parts, pod_sandbox_id)) });

export const listPodSandboxStats =
  (parts: StatsParts): Handler<'ListPodSandboxStats'> =>
  async ({ filter }) => ({ stats: await Promise.all(selectSandboxes(parts, filter).map((sandbox) => podStatsOf(parts, sandbox))) });

/** api.proto, StreamPodSandboxStats: as the list, each portion measured when the client takes it. */
export const streamPodSandboxStats =
  (parts: StatsParts): StreamHandler<'StreamPodSandboxStats'> =>
  async ({ filter }, _call, send) => {
    const messageOf = async (portion: readonly SandboxRecord[]) => ({ pod_sandbox_stats: await Promise.all(portion.map((item) => podStatsOf(parts, item))) });
    await sendPortions(selectSandboxes(parts, filter), messageOf, send);
  };

function selectSandboxes(parts: StatsParts, filter: PodSandboxStatsFilter | null): SandboxRecord[] {
  return [...parts.sandboxes.values()].filter(
    (sandbox) =>
      isVisible(parts, sandbox) &&
      sandbox.id.startsWith(filter?.id ?? '') &&
      matchesLabels(sandbox.config.labels, filter?.label_selector ?? {}) &&
      sandbox.state === 'ready',
  );
}

async function statsOf(parts: StatsParts, { id, metadata, labels, annotations, cgroup }: ContainerRecord): Promise<Init<ContainerStats>> {
  const sample = await parts.collector.sample({ id, cgroupPath: cgroup });
  const layer = parts.writable.get(id);
  return {
    attributes: { id, metadata, labels, annotations },
    ...(sample === undefined
      ? {}
      : {
          cpu: cpu(sample),
          memory: memory(sample),
          swap: swap(sample),
          ...(sample.psi === undefined ? {} : { io: { timestamp: String(sample.timestampNs), ...psi(sample.psi.io) } }),
        }),
    ...(layer === undefined
      ? {}
      : {
          writable_layer: {
            timestamp: String(layer.timestampNs),
            fs_id: { mountpoint: parts.storage.fsInfo().mountpoint },
            used_bytes: value(layer.bytes),
            inodes_used: value(layer.inodes),
          },
        }),
  };
}

async function podStatsOf(parts: StatsParts, sandbox: SandboxRecord): Promise<Init<PodSandboxStats>> {
  const { id, config, pause } = sandbox;
  const own = [...parts.containers.values()].filter(
    (container) => container.sandboxId === id && isVisible(parts, container) && container.state.name === 'running',
  );
  const anyProcess = pause?.init.pid ?? own.map(({ state }) => (state.name === 'running' ? state.init.pid : 0))[0] ?? 0;
  const [containers, sample, network] = await Promise.all([
    Promise.all(own.map((container) => statsOf(parts, container))),
    podSample(parts, sandbox, own),
    sandbox.namespaces.net === undefined || anyProcess === 0 ? undefined : readNetStats(anyProcess),
  ]);
  return {
    attributes: { id, metadata: config.metadata, labels: config.labels, annotations: config.annotations },
    linux: {
      containers,
      ...(sample === undefined
        ? {}
        : { cpu: cpu(sample), memory: memory(sample), process: { timestamp: String(sample.timestampNs), process_count: value(sample.pids) } }),
      ...(network === undefined
        ? {}
        : {
            network: {
              timestamp: String(network.timestampNs),
              ...(network.defaultInterface === undefined ? {} : { default_interface: netInterface(network.defaultInterface) }),
              interfaces: network.interfaces.filter((item) => item !== network.defaultInterface).map(netInterface),
            },
          }),
    },
  };
}

/**
 * The kubelet gives each pod a cgroup named after its uid, which counts shared memory and what has ended too. Where the
 * parent is anybody's, the pod is the sum of its processes' cgroups.
 */
async function podSample(
  parts: StatsParts,
  { id, config, cgroup, cgroupParent, hasPause }: SandboxRecord,
  own: readonly ContainerRecord[],
): Promise<UsageSample | undefined> {
  const uid = config.metadata?.uid ?? '';
  const leaf = cgroupParent.split('/').at(-1) ?? '';
  if (uid !== '' && (leaf.includes(uid) || leaf.includes(uid.replaceAll('-', '_')))) return await parts.collector.sample({ id, cgroupPath: cgroupParent });
  const paths = [...own.map((container) => ({ id: `${id}/${container.id}`, cgroupPath: container.cgroup })), ...(hasPause ? [{ id, cgroupPath: cgroup }] : [])];
  const samples = (await Promise.all(paths.map((path) => parts.collector.sample(path)))).filter((sample) => sample !== undefined);
  return samples.length === 0 ? undefined : samples.reduce(add);
}

function add(a: UsageSample, b: UsageSample): UsageSample {
  const sum = (x: number | undefined, y: number | undefined): number | undefined => (x === undefined || y === undefined ? undefined : x + y);
  return {
    ...a,
    cpuUsageNs: a.cpuUsageNs + b.cpuUsageNs,
    cpuUsageNanoCores: a.cpuUsageNanoCores === undefined || b.cpuUsageNanoCores === undefined ? undefined : a.cpuUsageNanoCores + b.cpuUsageNanoCores,
    pids: a.pids + b.pids,
    memory: {
      usageBytes: a.memory.usageBytes + b.memory.usageBytes,
      workingSetBytes: a.memory.workingSetBytes + b.memory.workingSetBytes,
      rssBytes: a.memory.rssBytes + b.memory.rssBytes,
      pageFaults: a.memory.pageFaults + b.memory.pageFaults,
      majorPageFaults: a.memory.majorPageFaults + b.memory.majorPageFaults,
      limitBytes: sum(a.memory.limitBytes, b.memory.limitBytes),
      availableBytes: sum(a.memory.availableBytes, b.memory.availableBytes),
    },
    psi: undefined,
  };
}

const value = (amount: number | bigint): { readonly value: string } => ({ value: String(amount) });

function cpu({ timestampNs, cpuUsageNs, cpuUsageNanoCores, psi: pressure }: UsageSample): Init<CpuUsage> {
  return {
    timestamp: String(timestampNs),
    usage_core_nano_seconds: value(cpuUsageNs),
    ...(cpuUsageNanoCores === undefined ? {} : { usage_nano_cores: value(cpuUsageNanoCores) }),
    ...psi(pressure?.cpu),
  };
}

function memory({ timestampNs, memory: used, psi: pressure }: UsageSample): Init<MemoryUsage> {
  return {
    timestamp: String(timestampNs),
    working_set_bytes: value(used.workingSetBytes),
    usage_bytes: value(used.usageBytes),
    rss_bytes: value(used.rssBytes),
    page_faults: value(used.pageFaults),
    major_page_faults: value(used.majorPageFaults),
    ...(used.availableBytes === undefined ? {} : { available_bytes: value(used.availableBytes) }),
    ...psi(pressure?.memory),
  };
}

function swap({ timestampNs, swap: used }: UsageSample): Init<SwapUsage> {
  return {
    timestamp: String(timestampNs),
    swap_usage_bytes: value(used.usageBytes),
    ...(used.availableBytes === undefined ? {} : { swap_available_bytes: value(used.availableBytes) }),
  };
}

function psi(pressure: Pressure | undefined): { readonly psi?: Init<PsiStats> } {
  if (pressure === undefined) return {};
  const line = ({ totalUs, avg10, avg60, avg300 }: Pressure['some']): NonNullable<Init<PsiStats>['Some']> => ({
    Total: String(totalUs * 1000n), // nanoseconds
    Avg10: avg10,
    Avg60: avg60,
    Avg300: avg300,
  });
  return { psi: { Some: line(pressure.some), ...(pressure.full === undefined ? {} : { Full: line(pressure.full) }) } };
}

function netInterface({ name, rxBytes, rxErrors, txBytes, txErrors }: InterfaceStats): Init<NetworkInterfaceUsage> {
  return { name, rx_bytes: value(rxBytes), rx_errors: value(rxErrors), tx_bytes: value(txBytes), tx_errors: value(txErrors) };
}
