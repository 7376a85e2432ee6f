import { CriError, invalidField } from '#base/errors.ts';
import type { LinuxContainerResources } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';
import type { OciResources } from './spec.ts';

/** Below it crun and runc fail themselves while they set a container up, with messages that name no limit. CRI-O's default as well. */
export const MIN_MEMORY_BYTES = 12 * 1024 * 1024;

type ResourceFacts = Pick<HostFacts, 'cgroupV2' | 'hugepageSizes' | 'swap'>;

/**
 * @param field the message's path, such as `config.linux.resources`. Serves CreateContainer and UpdateContainerResources.
 * @throws {CriError} `invalidArgument` naming the field.
 */
export function validateResources(field: string, resources: LinuxContainerResources | null, host: ResourceFacts): void {
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
  validateMemory(field, resources);
  validateHugepages(field, resources, host);
  validateUnified(field, resources, host);
}

/** What the request sets, in the runtime's terms; zero and empty mean not set. No devices and no pids in it. */
export function toOciResources(resources: LinuxContainerResources | null, host: ResourceFacts): OciResources {
  if (resources === null) return {};
  const shares = toNumber(resources.cpu_shares);
  const quota = toNumber(resources.cpu_quota);
  const period = toNumber(resources.cpu_period);
  const cpu = {
    ...(shares === 0 ? {} : { shares: Math.max(shares, 2) }),
    ...(quota === 0 ? {} : { quota }),
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

function toOciMemory(resources: LinuxContainerResources, host: ResourceFacts): OciResources['memory'] {
  const limit = toNumber(resources.memory_limit_in_bytes);
  if (limit === 0) return undefined;
  if (!host.swap || 'memory.swap.max' in resources.unified) return { limit };
  // OCI's swap is memory and swap together: the limit itself forbids swapping, which is what a request without a swap limit means.
  const swap = toNumber(resources.memory_swap_limit_in_bytes);
  return { limit, swap: swap === 0 ? limit : swap };
}

function validateMemory(field: string, resources: LinuxContainerResources): void {
  const limit = checkInteger(`${field}.memory_limit_in_bytes`, resources.memory_limit_in_bytes, 0, Number.MAX_SAFE_INTEGER);
  if (limit > 0 && limit < MIN_MEMORY_BYTES) {
    throw invalidField(`${field}.memory_limit_in_bytes`, limit, `is below ${MIN_MEMORY_BYTES}, the least a container can be started with`);
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
