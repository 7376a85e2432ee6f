import { CriError, invalidField } from '#base/errors.ts';
import type { LinuxContainerResources } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';
import type { OciResources } from './spec.ts';

type ResourceFacts = Pick<HostFacts, 'cgroupV2' | 'hugepageSizes' | 'swap'>;

/**
 * @param field the message's path, such as `config.linux.resources`. Serves CreateContainer and UpdateContainerResources.
 * @param minMemoryBytes the smallest limit taken, the handler's `container_min_memory`; 0 takes any.
 * @throws {CriError} `invalidArgument` naming the field.
 */
export function validateResources(field: string, resources: LinuxContainerResources | null, host: ResourceFacts, minMemoryBytes: number): void {
  if (resources === null) return;
  // Ranges of the kernel: cpu.shares 2…262144 (kernel/sched/sched.h), periods 1 ms…1 s and quotas from 1 ms (kernel/sched/core.c).
  checkInteger(`${field}.cpu_shares`, resources.cpu_shares, 0, 262_144);
  if (resources.cpu_period !== '0') checkInteger(`${field}.cpu_period`, resources.cpu_period, 1_000, 1_000_000);
  if (toNumber(resources.cpu_quota) > 0) checkInteger(`${field}.cpu_quota`, resources.cpu_quota, 1_000, Number.MAX_SAFE_INTEGER);
  else checkInteger(`${field}.cpu_quota`, resources.cpu_quota, -1, 0);
  checkInteger(`${field}.oom_score_adj`, resources.oom_score_adj, -1_000, 1_000);
  for (const key of ['cpuset_cpus', 'cpuset_mems'] as const) {
    if (!/^(\d+(-\d+)?(,\d+(-\d+)?)*)?$/.test(resources[key])) throw invalidField(`${field}.${key}`, resources[key], 'is no list of numbers and ranges');
  }
  validateMemory(field, resources, minMemoryBytes);
  validateHugepages(field, resources, host);
  validateUnified(field, resources, host);
}

/** A pod's sum or overhead, which the kubelet has set in the pod's cgroup itself: any size will do. Throws like `validateResources`. */
export function validatePodResources(field: string, resources: LinuxContainerResources | null, host: ResourceFacts): void {
  validateResources(field, resources, host, 0);
}

/** What the request sets, in the runtime's terms; zero and empty mean not set. No devices and no pids in it. */
export function toOciResources(resources: LinuxContainerResources | null, host: ResourceFacts): OciResources {
  if (resources === null) return {};
  const shares = toNumber(resources.cpu_shares);
  const quota = toNumber(resources.cpu_quota);
  const period = toNumber(resources.cpu_period);
  const cpu = {
    ...(shares === 0 ? {} : { shares: Math.max(shares, 2) }),
    // No limit is what a new cgroup has; crun 1.8 cannot write -1 with version 1.
    ...(quota === 0 || (quota < 0 && !host.cgroupV2) ? {} : { quota }),
    ...(period === 0 ? {} : { period }),
    ...(resources.cpuset_cpus === '' ? {} : { cpus: resources.cpuset_cpus }),
    ...(resources.cpuset_mems === '' ? {} : { mems: resources.cpuset_mems }),
  };
  const memory = toOciMemory(resources, host);
  const hugepageLimits = resources.hugepage_limits
    .filter(({ page_size }) => host.hugepageSizes.includes(page_size))
    .map(({ page_size, limit }) => ({ pageSize: page_size, limit: toNumber(limit) }));
  return {
    ...(Object.keys(cpu).length === 0 ? {} : { cpu }),
    ...(memory === undefined ? {} : { memory }),
    ...(hugepageLimits.length === 0 ? {} : { hugepageLimits }),
    ...(Object.keys(resources.unified).length === 0 ? {} : { unified: resources.unified }),
  };
}

/** The old limits with the request's over them: 0 and empty ones stay. */
export function mergeResources(old: LinuxContainerResources | null, request: LinuxContainerResources): LinuxContainerResources {
  if (old === null) return request;
  const sizes = new Map([...old.hugepage_limits, ...request.hugepage_limits].map(({ page_size, limit }) => [page_size, limit]));
  const merged = {
    cpu_period: over(old.cpu_period, request.cpu_period),
    cpu_quota: over(old.cpu_quota, request.cpu_quota),
    cpu_shares: over(old.cpu_shares, request.cpu_shares),
    memory_limit_in_bytes: over(old.memory_limit_in_bytes, request.memory_limit_in_bytes),
    oom_score_adj: over(old.oom_score_adj, request.oom_score_adj),
    cpuset_cpus: request.cpuset_cpus === '' ? old.cpuset_cpus : request.cpuset_cpus,
    cpuset_mems: request.cpuset_mems === '' ? old.cpuset_mems : request.cpuset_mems,
    hugepage_limits: [...sizes].map(([page_size, limit]) => ({ page_size, limit })),
    unified: { ...old.unified, ...request.unified },
  };
  return { ...merged, memory_swap_limit_in_bytes: mergedSwap(old, request, merged.memory_limit_in_bytes) };
}

/** The limit counts memory too, so what may be swapped stays when the memory changes alone. */
function mergedSwap(old: LinuxContainerResources, request: LinuxContainerResources, limit: string): string {
  if (toNumber(request.memory_swap_limit_in_bytes) !== 0) return request.memory_swap_limit_in_bytes;
  const before = toNumber(old.memory_swap_limit_in_bytes);
  if (before <= 0) return old.memory_swap_limit_in_bytes;
  return String(toNumber(limit) + before - toNumber(old.memory_limit_in_bytes));
}

function over(old: string, value: string): string {
  return toNumber(value) === 0 ? old : value;
}

/** A change of a container's limits, in all the terms that carrying it out and undoing it take. */
export interface ChangeOfResources {
  /** For the OCI runtime's update. */
  readonly update: OciResources;
  /** What takes `update` back, as far as a runtime can be told. */
  readonly undo: OciResources;
  /** Files of the cgroup and their new content; `undefined` leaves the file to the runtime, but it is part of what to put back. */
  readonly files: ReadonlyMap<string, string | undefined>;
}

/** @param merged what `mergeResources` made of `old` and `request`; only what the request sets is changed. */
export function changeOfResources(
  old: LinuxContainerResources | null,
  merged: LinuxContainerResources,
  request: LinuxContainerResources,
  host: ResourceFacts,
): ChangeOfResources {
  const all = toOciResources(merged, host);
  const before = toOciResources(old, host);
  const setsCpu =
    [request.cpu_shares, request.cpu_quota, request.cpu_period].some((value) => toNumber(value) !== 0) || request.cpuset_cpus + request.cpuset_mems !== '';
  const setsMemory = toNumber(request.memory_limit_in_bytes) !== 0 || toNumber(request.memory_swap_limit_in_bytes) !== 0;
  const setsHugepages = request.hugepage_limits.some(({ page_size }) => host.hugepageSizes.includes(page_size));
  const setsUnified = Object.keys(request.unified).length > 0;
  const hugepages = setsHugepages ? all.hugepageLimits : undefined;
  const unified = setsUnified ? request.unified : undefined;
  const files = new Map<string, string | undefined>();
  for (const file of setsCpu ? CPU_FILES[host.cgroupV2 ? 2 : 1] : []) files.set(file, undefined);
  if (toNumber(request.cpu_quota) < 0 && !host.cgroupV2) files.set('cpu.cfs_quota_us', '-1'); // see `toOciResources`
  for (const file of setsMemory ? MEMORY_FILES[host.cgroupV2 ? 2 : 1] : []) files.set(file, undefined);
  // runc's update takes no huge pages, and not every runtime's takes unified keys.
  for (const { pageSize, limit } of hugepages ?? []) files.set(host.cgroupV2 ? `hugetlb.${pageSize}.max` : `hugetlb.${pageSize}.limit_in_bytes`, String(limit));
  for (const [key, value] of Object.entries(unified ?? {})) files.set(key, value);
  return {
    update: {
      ...(setsCpu && all.cpu !== undefined ? { cpu: all.cpu } : {}),
      ...(setsMemory && all.memory !== undefined ? { memory: all.memory } : {}),
      ...(hugepages === undefined ? {} : { hugepageLimits: hugepages }),
      ...(unified === undefined ? {} : { unified }),
    },
    undo: {
      ...(setsCpu ? { cpu: { shares: DEFAULT_SHARES, quota: -1, period: DEFAULT_PERIOD, ...before.cpu } } : {}),
      ...(setsMemory ? { memory: before.memory ?? (host.swap ? { limit: -1, swap: -1 } : { limit: -1 }) } : {}),
    },
    files,
  };
}

/** The kernel's own, for who sets none. Source: sched-design-CFS.rst, sched-bwc.rst. */
const DEFAULT_SHARES = 1024;
const DEFAULT_PERIOD = 100_000;

const CPU_FILES = {
  1: ['cpu.shares', 'cpu.cfs_period_us', 'cpu.cfs_quota_us', 'cpuset.cpus', 'cpuset.mems'],
  2: ['cpu.weight', 'cpu.max', 'cpuset.cpus', 'cpuset.mems'],
} as const;

const MEMORY_FILES = {
  1: ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'],
  2: ['memory.max', 'memory.swap.max'],
} as const;

function toOciMemory(resources: LinuxContainerResources, host: ResourceFacts): OciResources['memory'] {
  const limit = toNumber(resources.memory_limit_in_bytes);
  if (limit === 0) return undefined;
  if (!host.swap || 'memory.swap.max' in resources.unified) return { limit };
  // OCI's swap is memory and swap together: the limit itself forbids swapping, which is what a request without a swap limit means.
  const swap = toNumber(resources.memory_swap_limit_in_bytes);
  return { limit, swap: swap === 0 ? limit : swap };
}

function validateMemory(field: string, resources: LinuxContainerResources, minMemoryBytes: number): void {
  const limit = checkInteger(`${field}.memory_limit_in_bytes`, resources.memory_limit_in_bytes, 0, Number.MAX_SAFE_INTEGER);
  if (limit > 0 && limit < minMemoryBytes) {
    throw invalidField(`${field}.memory_limit_in_bytes`, limit, `is below ${minMemoryBytes}, the container_min_memory of the runtime handler`);
  }
  const swap = checkInteger(`${field}.memory_swap_limit_in_bytes`, resources.memory_swap_limit_in_bytes, -1, Number.MAX_SAFE_INTEGER);
  if (swap > 0 && limit === 0) throw invalidField(`${field}.memory_swap_limit_in_bytes`, swap, 'needs a memory limit');
  if (swap > 0 && swap < limit) throw invalidField(`${field}.memory_swap_limit_in_bytes`, swap, `is below the memory limit ${limit}`);
}

function validateHugepages(field: string, resources: LinuxContainerResources, host: ResourceFacts): void {
  for (const [index, { page_size, limit }] of resources.hugepage_limits.entries()) {
    const bytes = checkInteger(`${field}.hugepage_limits[${index}].limit`, limit, 0, Number.MAX_SAFE_INTEGER);
    // The kubelet lists every size with 0: only a real limit needs the controller.
    if (bytes > 0 && !host.hugepageSizes.includes(page_size)) {
      throw invalidField(`${field}.hugepage_limits[${index}].page_size`, page_size, 'cannot be limited on this host');
    }
  }
}

function validateUnified(field: string, resources: LinuxContainerResources, host: ResourceFacts): void {
  for (const [key, value] of Object.entries(resources.unified)) {
    if (!host.cgroupV2) throw invalidField(`${field}.unified`, key, 'needs cgroup v2');
    // A file of a controller, never one of the cgroup's own (cgroup.procs, cgroup.kill) and never a path.
    if (!/^[a-z0-9]+(\.[A-Za-z0-9_-]+)+$/.test(key) || key.startsWith('cgroup.')) throw invalidField(`${field}.unified`, key, 'is no cgroup controller file');
    if (!/^[ -~]+$/.test(value)) throw invalidField(`${field}.unified[${key}]`, value, 'is not one line of text');
  }
}

function checkInteger(field: string, value: string, min: number, max: number): number {
  const number = toNumber(value);
  // What a double cannot hold exactly could not be written to config.json either; it is 9 PB or 285 years.
  if (!Number.isSafeInteger(number) || number < min || number > max) throw invalidField(field, value, `is not from ${min} to ${max}`);
  return number;
}

/** @throws {CriError} for a text that is no whole number; the wire cannot carry one, a record on disk could. */
function toNumber(value: string): number {
  if (!/^-?\d{1,20}$/.test(value)) throw new CriError('invalidArgument', `${JSON.stringify(value)} is no integer`);
  return Number(value);
}
