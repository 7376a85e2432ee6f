import { describe, expect, test } from 'vitest';
import type { LinuxContainerResources } from '../../../../proto/cri.ts';
import { changeOfResources, mergeResources, toOciResources, validateResources } from '../../../../server/oci/resources.ts';
import { fullHost, resources } from './requests.ts';

const v1 = { ...fullHost, cgroupV2: false };
const noSwap = { ...fullHost, swap: false };
const MiB = 1024 * 1024;

describe('validateResources()', () => {
  test.each<[string, Partial<LinuxContainerResources>, string, typeof fullHost]>([
    ['negative shares', { cpu_shares: '-1' }, 'r.cpu_shares: "-1" is not from 0', fullHost],
    ['absurd shares', { cpu_shares: '262145' }, 'r.cpu_shares', fullHost],
    ['a short period', { cpu_period: '999' }, 'r.cpu_period', fullHost],
    ['a tiny quota', { cpu_quota: '999' }, 'r.cpu_quota', fullHost],
    ['a quota below unlimited', { cpu_quota: '-2' }, 'r.cpu_quota', fullHost],
    ['an OOM score out of range', { oom_score_adj: '1001' }, 'r.oom_score_adj: "1001" is not from -1000 to 1000', fullHost],
    ['negative memory', { memory_limit_in_bytes: '-1' }, 'r.memory_limit_in_bytes', fullHost],
    [
      'memory below the minimum',
      { memory_limit_in_bytes: '12582911' },
      'r.memory_limit_in_bytes: 12582911 is below 12582912, the container_min_memory',
      fullHost,
    ],
    ['memory past exact numbers', { memory_limit_in_bytes: '9223372036854775807' }, 'r.memory_limit_in_bytes', fullHost],
    ['swap below memory', { memory_limit_in_bytes: String(64 * MiB), memory_swap_limit_in_bytes: String(32 * MiB) }, 'is below the memory limit', fullHost],
    ['swap without memory', { memory_swap_limit_in_bytes: String(32 * MiB) }, 'needs a memory limit', fullHost],
    ['a bad cpuset', { cpuset_cpus: '0-3;4' }, 'r.cpuset_cpus: "0-3;4"', fullHost],
    ['bad memory nodes', { cpuset_mems: 'all' }, 'r.cpuset_mems', fullHost],
    ['a page size that the host lacks', { hugepage_limits: [{ page_size: '16GB', limit: '1' }] }, 'r.hugepage_limits[0].page_size: "16GB"', fullHost],
    ['a negative page limit', { hugepage_limits: [{ page_size: '2MB', limit: '-1' }] }, 'r.hugepage_limits[0].limit', fullHost],
    ['unified keys on v1', { unified: { 'memory.oom.group': '1' } }, 'r.unified: "memory.oom.group" needs cgroup v2', v1],
    ['a path as unified key', { unified: { '../memory.max': '1' } }, 'is no cgroup controller file', fullHost],
    ["the cgroup's own files", { unified: { 'cgroup.procs': '1' } }, 'is no cgroup controller file', fullHost],
    ['a unified value of two lines', { unified: { 'memory.max': '1\n2' } }, 'r.unified[memory.max]', fullHost],
    ['what is no number', { cpu_shares: 'many' }, '"many" is no integer', fullHost],
  ])('refuses %s', (_what, change, message, host) => {
    expect(() => validateResources('r', resources(change), host, 12 * MiB)).toThrow(message);
  });

  test('takes what the kubelet sends', () => {
    const burstable = resources({
      cpu_period: '100000',
      cpu_quota: '-1',
      cpu_shares: '2',
      oom_score_adj: '-997',
      cpuset_cpus: '0-3,7',
      hugepage_limits: [
        { page_size: '2MB', limit: '0' },
        { page_size: '64KB', limit: '0' },
      ],
      unified: { 'memory.oom.group': '1', 'memory.swap.max': '0', 'hugetlb.2MB.rsvd.max': '1' },
    });
    expect(() => validateResources('r', burstable, fullHost, 12 * MiB)).not.toThrow();
    expect(() => validateResources('r', null, fullHost, 12 * MiB)).not.toThrow();
    const v1Memory = resources({ memory_limit_in_bytes: String(64 * MiB), memory_swap_limit_in_bytes: String(64 * MiB) });
    expect(() => validateResources('r', v1Memory, v1, 64 * MiB)).not.toThrow();
    expect(() => validateResources('r', resources({ memory_limit_in_bytes: '1' }), fullHost, 0)).not.toThrow();
    expect(() => validateResources('r', resources(), fullHost, 64 * MiB)).not.toThrow(); // no limit is not a small one
  });
});

describe('toOciResources()', () => {
  test('leaves out what is not set', () => {
    expect(toOciResources(resources(), fullHost)).toEqual({});
    expect(toOciResources(null, fullHost)).toEqual({});
  });

  test('passes on what is set', () => {
    const wanted = resources({
      cpu_period: '100000',
      cpu_quota: '50000',
      cpu_shares: '1',
      cpuset_cpus: '0-1',
      cpuset_mems: '0',
      hugepage_limits: [
        { page_size: '2MB', limit: '0' },
        { page_size: '64KB', limit: '0' },
      ],
      unified: { 'memory.high': '1' },
    });
    expect(toOciResources(wanted, fullHost)).toEqual({
      cpu: { shares: 2, quota: 50_000, period: 100_000, cpus: '0-1', mems: '0' },
      hugepageLimits: [{ pageSize: '2MB', limit: 0 }],
      unified: { 'memory.high': '1' },
    });
  });

  test.each<[string, Partial<LinuxContainerResources>, typeof fullHost, object]>([
    ['without a swap limit', {}, fullHost, { limit: 64 * MiB, swap: 64 * MiB }],
    ['with a swap limit', { memory_swap_limit_in_bytes: String(96 * MiB) }, fullHost, { limit: 64 * MiB, swap: 96 * MiB }],
    ['with unlimited swap', { memory_swap_limit_in_bytes: '-1' }, fullHost, { limit: 64 * MiB, swap: -1 }],
    ['with a swap file of its own', { unified: { 'memory.swap.max': '0' } }, fullHost, { limit: 64 * MiB }],
    ['where swap is not accounted', { memory_swap_limit_in_bytes: String(96 * MiB) }, noSwap, { limit: 64 * MiB }],
  ])('limits memory %s', (_what, change, host, memory) => {
    expect(toOciResources(resources({ memory_limit_in_bytes: String(64 * MiB), ...change }), host).memory).toEqual(memory);
  });
});

describe('mergeResources()', () => {
  const old = resources({
    cpu_shares: '512',
    cpu_quota: '50000',
    memory_limit_in_bytes: '1000',
    memory_swap_limit_in_bytes: '1500',
    hugepage_limits: [
      { page_size: '2MB', limit: '1' },
      { page_size: '1GB', limit: '2' },
    ],
    unified: { 'memory.high': '900', 'memory.oom.group': '1' },
  });

  test('keeps what the request leaves at 0 or empty', () => {
    expect(mergeResources(old, resources())).toEqual(old);
    expect(mergeResources(null, resources({ cpu_shares: '3' }))).toEqual(resources({ cpu_shares: '3' }));
  });

  test('takes the rest, page sizes and unified keys one by one', () => {
    const merged = mergeResources(
      old,
      resources({
        cpu_quota: '-1',
        cpuset_cpus: '1',
        oom_score_adj: '7',
        hugepage_limits: [{ page_size: '1GB', limit: '5' }],
        unified: { 'memory.high': 'max' },
      }),
    );
    expect(merged).toMatchObject({
      cpu_shares: '512',
      cpu_quota: '-1',
      cpuset_cpus: '1',
      oom_score_adj: '7',
      unified: { 'memory.high': 'max', 'memory.oom.group': '1' },
    });
    expect(merged.hugepage_limits).toEqual([
      { page_size: '2MB', limit: '1' },
      { page_size: '1GB', limit: '5' },
    ]);
  });

  test.each([
    ['keeps what may be swapped', '1500', '0', '2500'],
    ['takes a new limit of both', '1500', '3000', '3000'],
    ['keeps no limit', '-1', '0', '-1'],
    ['keeps none set', '0', '0', '0'],
  ])('%s when memory changes alone', (_what, before, asked, after) => {
    const merged = mergeResources(
      { ...old, memory_swap_limit_in_bytes: before },
      resources({ memory_limit_in_bytes: '2000', memory_swap_limit_in_bytes: asked }),
    );
    expect(merged.memory_swap_limit_in_bytes).toBe(after);
  });
});

describe('changeOfResources()', () => {
  const change = (request: Partial<LinuxContainerResources>, old: Partial<LinuxContainerResources> = {}, host = fullHost) =>
    changeOfResources(resources(old), mergeResources(resources(old), resources(request)), resources(request), host);

  test('says nothing of what is not asked for', () => {
    expect(change({ oom_score_adj: '5' }, { cpu_shares: '512' })).toEqual({ update: {}, undo: {}, files: new Map() });
    expect(change({ cpuset_cpus: '1' }, { memory_limit_in_bytes: '1000' }).update).toEqual({ cpu: { cpus: '1' } });
  });

  test('takes limits of one kind together, and knows the way back', () => {
    const { update, undo } = change({ cpu_quota: '20000', memory_limit_in_bytes: '2000' }, { cpu_shares: '512', cpu_period: '50000' });
    expect(update).toEqual({ cpu: { shares: 512, period: 50_000, quota: 20_000 }, memory: { limit: 2000, swap: 2000 } });
    expect(undo).toEqual({ cpu: { shares: 512, period: 50_000, quota: -1 }, memory: { limit: -1, swap: -1 } });
  });

  test('writes itself what not every runtime does', () => {
    const { files } = change({ hugepage_limits: [{ page_size: '2MB', limit: '0' }], unified: { 'memory.high': '5000' } });
    expect(Object.fromEntries(files)).toEqual({ 'hugetlb.2MB.max': '0', 'memory.high': '5000' });
    expect(Object.fromEntries(change({ cpu_quota: '-1' }, {}, v1).files)).toMatchObject({ 'cpu.cfs_quota_us': '-1' });
  });
});
