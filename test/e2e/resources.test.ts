import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { ContainerState } from '../../proto/cri.ts';
import { containerStatus, exited, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX } from '../support/images.ts';
import { cgroupFile, cgroupOf, cgroupVersion, limitsOf } from '../support/limits.ts';
import { ensureImage, makeContainer, startPod } from '../support/pod.ts';
import { processesOf } from '../support/processes.ts';
import { until } from '../support/wait.ts';

const MIB = 1024 ** 2;

/** Files are named after version 1 here; the virtual machine of test/vm looks into version 2. */
describe.runIf(cgroupVersion === 1).each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  beforeAll(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  const initOf = (id: string): number => processesOf(daemon, id).init;
  const resourcesOf = async (id: string) => (await containerStatus(daemon, id)).resources?.linux;
  const scoreOf = (pid: number | string): number => Number(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8'));
  const all = {
    cpu_period: '50000',
    cpu_quota: '25000',
    cpu_shares: '512',
    memory_limit_in_bytes: String(64 * MIB),
    memory_swap_limit_in_bytes: String(96 * MIB),
    oom_score_adj: '500',
    cpuset_cpus: '0',
    cpuset_mems: '0',
    hugepage_limits: [{ page_size: '2MB', limit: String(4 * MIB) }],
  };

  test(
    'a container has the limits of the request',
    proves(
      'LinuxContainerConfig.resources',
      'LinuxContainerResources.cpu_period',
      'LinuxContainerResources.cpu_quota',
      'LinuxContainerResources.cpu_shares',
      'LinuxContainerResources.memory_limit_in_bytes',
      'LinuxContainerResources.memory_swap_limit_in_bytes',
      'LinuxContainerResources.oom_score_adj',
      'LinuxContainerResources.cpuset_cpus',
      'LinuxContainerResources.cpuset_mems',
      'LinuxContainerResources.hugepage_limits',
      'HugepageLimit.page_size',
      'HugepageLimit.limit',
      'LinuxPodSandboxConfig.cgroup_parent',
    ),
    async () => {
      const { pod, containerId } = await startPod(daemon, {}, { resources: all });
      const pid = initOf(containerId);
      expect(limitsOf(pid)).toEqual({
        memory: String(64 * MIB),
        ...(existsSync('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes') ? { memoryAndSwap: String(96 * MIB) } : {}),
        shares: '512',
        quota: '25000',
        period: '50000',
        cpus: '0',
        mems: '0',
        pids: 'none',
      });
      expect(cgroupFile(pid, 'hugetlb.2MB.limit_in_bytes')).toBe(String(4 * MIB));
      expect(scoreOf(pid)).toBe(500);
      expect(cgroupOf(pid, 'memory').endsWith(`${pod.config.linux?.cgroup_parent}/${containerId}`)).toBe(true);
      expect(await resourcesOf(containerId)).toMatchObject(all);
    },
  );

  test.each([
    ['memory_limit_in_bytes', { memory_limit_in_bytes: '4096' }],
    ['memory_swap_limit_in_bytes', { memory_limit_in_bytes: String(64 * MIB), memory_swap_limit_in_bytes: String(32 * MIB) }],
    ['cpu_period', { cpu_period: '5' }],
    ['cpuset_cpus', { cpuset_cpus: '0;rm' }],
    ['hugepage_limits[0].page_size', { hugepage_limits: [{ page_size: '3MB', limit: String(MIB) }] }],
    ['unified', { unified: { 'memory.high': '1' } }],
    ['oom_score_adj', { oom_score_adj: '1001' }],
  ])('a bad %s is refused by its name', async (field, resources) => {
    const { pod, podId, containerId } = await startPod(daemon);
    const container = makeContainer(pod, { name: 'bad', resources });
    await expect(daemon.cri.CreateContainer({ pod_sandbox_id: podId, config: container, sandbox_config: pod.config })).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      message: expect.stringContaining(`config.linux.resources.${field}`),
    });
    await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux: resources })).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      message: expect.stringContaining(`linux.${field}`),
    });
  });

  test('no limit at all may be said in words', async () => {
    const resources = {
      cpu_quota: '-1',
      memory_limit_in_bytes: String(64 * MIB),
      memory_swap_limit_in_bytes: '-1',
      hugepage_limits: [{ page_size: '2MB', limit: '0' }],
    };
    const { containerId } = await startPod(daemon, {}, { resources });
    expect(limitsOf(initOf(containerId))).toMatchObject({ quota: 'none', memory: String(64 * MIB) });
    if (existsSync('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes')) expect(limitsOf(initOf(containerId)).memoryAndSwap).toBe('none');
  });

  test('UpdateContainerResources changes what it is sent, keeps the rest, and outlives the daemon', async () => {
    const { containerId } = await startPod(
      daemon,
      {},
      { command: ['sh', '-c', 'sleep 10000 & (echo 700 >/proc/self/oom_score_adj; exec sleep 10001) & wait'] },
    );
    const pid = initOf(containerId);
    const children = await until('its children', async () => {
      const found = (await shell(daemon, containerId, 'pidof sleep || true')).split(' ');
      return found.length === 2 && found;
    });
    expect(children).toHaveLength(2);
    await daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { cpuset_cpus: '0' } });
    expect(limitsOf(pid)).toMatchObject({ cpus: '0', shares: '102', memory: String(64 * MIB) });
    await daemon.cri.UpdateContainerResources({
      container_id: containerId,
      linux: { ...all, memory_limit_in_bytes: String(128 * MIB), memory_swap_limit_in_bytes: '0' },
    });
    expect(limitsOf(pid)).toMatchObject({ memory: String(128 * MIB), shares: '512', quota: '25000', period: '50000', cpus: '0' });
    expect(cgroupFile(pid, 'hugetlb.2MB.limit_in_bytes')).toBe(String(4 * MIB));
    expect(scoreOf(pid)).toBe(500);
    // children have it too, but for the one that chose its own
    expect(await shell(daemon, containerId, 'for pid in $(pidof sleep); do cat /proc/$pid/oom_score_adj; done | sort')).toBe('500\n700');
    const now = { ...all, memory_limit_in_bytes: String(128 * MIB), memory_swap_limit_in_bytes: '0' };
    expect(await resourcesOf(containerId)).toMatchObject(now);
    await daemon.restart();
    expect(await resourcesOf(containerId)).toMatchObject(now);
    await daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { cpu_quota: '-1' }, annotations: { 'a/b': 'c' } });
    expect(limitsOf(pid)).toMatchObject({ quota: 'none', period: '50000', memory: String(128 * MIB) });
    expect((await containerStatus(daemon, containerId)).annotations).not.toHaveProperty('a/b');
  });

  test('UpdateContainerResources works on a container that is not started yet, and not on one that has ended', async () => {
    const { pod, podId, containerId } = await startPod(daemon, {}, { command: ['true'] });
    await ensureImage(daemon, BUSYBOX);
    const { container_id } = await daemon.cri.CreateContainer({
      pod_sandbox_id: podId,
      config: makeContainer(pod, { name: 'later' }),
      sandbox_config: pod.config,
    });
    await daemon.cri.UpdateContainerResources({ container_id, linux: { memory_limit_in_bytes: String(80 * MIB), oom_score_adj: '123' } });
    await daemon.cri.StartContainer({ container_id });
    expect(limitsOf(initOf(container_id))).toMatchObject({ memory: String(80 * MIB), shares: '102' });
    expect(scoreOf(initOf(container_id))).toBe(123);
    await exited(daemon, containerId);
    await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { cpu_shares: '300' } })).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      message: expect.stringContaining('is exited'),
    });
    await expect(daemon.cri.UpdateContainerResources({ container_id: 'f'.repeat(64), linux: {} })).rejects.toMatchObject({ code: status.NOT_FOUND });
  });

  test('an update that cannot be carried out changes nothing', async () => {
    const { containerId } = await startPod(daemon, {}, { resources: { ...all, cpuset_cpus: '' } });
    const pid = initOf(containerId);
    const before = limitsOf(pid);
    // processors that no machine has: the kernel refuses them after the runtime has set the rest
    const linux = {
      cpuset_cpus: '1020-1023',
      cpu_shares: '999',
      cpu_quota: '33000',
      memory_limit_in_bytes: String(80 * MIB),
      memory_swap_limit_in_bytes: String(80 * MIB),
      oom_score_adj: '600',
    };
    await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux })).rejects.toThrow('nothing was changed');
    expect(limitsOf(pid)).toEqual(before);
    expect(scoreOf(pid)).toBe(500);
    expect(await resourcesOf(containerId)).toMatchObject({ ...all, cpuset_cpus: '' });
  });

  test('an update that the runtime fails, or during which the daemon dies, leaves what is known and what is so in step', async () => {
    const { containerId } = await startPod(daemon, {}, { resources: all });
    const pid = initOf(containerId);
    const before = limitsOf(pid);
    const linux = { cpu_shares: '300', memory_limit_in_bytes: String(80 * MIB), oom_score_adj: '600' };
    for (const fault of ['fail', 'die'] as const) {
      daemon.faults.set(handler, 'update', fault);
      await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux })).rejects.toThrow('nothing was changed');
      expect(limitsOf(pid)).toEqual(before);
      expect(scoreOf(pid)).toBe(500);
      expect(await resourcesOf(containerId)).toMatchObject(all);
    }
    daemon.faults.set(handler, 'update', 'hold');
    const lost = daemon.cri.UpdateContainerResources({ container_id: containerId, linux }).catch((err: unknown) => err);
    await until('the runtime to be asked', () => daemon.faults.calls(handler, 'update') >= 3);
    await daemon.kill('SIGKILL');
    expect(await lost).toBeInstanceOf(Error);
    daemon.faults.clear();
    await daemon.start();
    await daemon.cri.UpdateContainerResources({ container_id: containerId, linux }); // as the kubelet does, whose wish is not in the status
    expect(limitsOf(pid)).toMatchObject({ shares: '300', memory: String(80 * MIB), quota: '25000' });
    expect(scoreOf(pid)).toBe(600);
    expect(await resourcesOf(containerId)).toMatchObject({
      ...all,
      cpu_shares: '300',
      memory_limit_in_bytes: String(80 * MIB),
      oom_score_adj: '600',
      memory_swap_limit_in_bytes: String(112 * MIB),
    });
  });

  test('unified keys, which version 1 does not have, are refused by their name', proves('LinuxContainerResources.unified'), async () => {
    const { containerId } = await startPod(daemon);
    await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { unified: { 'memory.high': 'max' } } })).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      message: expect.stringContaining('linux.unified: "memory.high" needs cgroup v2'),
    });
  });

  test('a memory limit below what is in use is refused', async () => {
    const { containerId } = await startPod(daemon, {}, { command: ['sh', '-c', 'head -c 40000000 /dev/zero | (tail; sleep 10000)'] });
    const used = await until('the memory to be taken', async () => {
      const { stats } = await daemon.cri.ContainerStats({ container_id: containerId });
      const bytes = Number(stats?.memory?.working_set_bytes?.value ?? 0);
      return bytes > 30 * MIB && bytes;
    });
    expect(used).toBeGreaterThan(30 * MIB);
    await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { memory_limit_in_bytes: String(16 * MIB) } })).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      message: expect.stringContaining('linux.memory_limit_in_bytes: "16777216" is below'),
    });
    expect(limitsOf(initOf(containerId)).memory).toBe(String(64 * MIB));
    expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_RUNNING);
  });

  test(
    'UpdatePodSandboxResources is remembered, and leaves the cgroup to the kubelet',
    proves('LinuxPodSandboxConfig.overhead', 'LinuxPodSandboxConfig.resources'),
    async () => {
      const { pod, podId, containerId } = await startPod(daemon);
      const cgroup = join(cgroupOf(initOf(containerId), 'memory'), '..');
      const before = readFileSync(join(cgroup, 'memory.limit_in_bytes'), 'utf8');
      const noted = async () => {
        const { info } = await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId, verbose: true });
        const { config } = JSON.parse(info.info ?? '{}') as { config: { linux: { overhead: object; resources: object } } };
        return { overhead: config.linux.overhead, resources: config.linux.resources };
      };
      expect((await noted()).resources).toMatchObject(pod.config.linux?.resources ?? {});
      const resources = { cpu_shares: '2048', memory_limit_in_bytes: String(256 * MIB) };
      await daemon.cri.UpdatePodSandboxResources({ pod_sandbox_id: podId, resources, overhead: { cpu_shares: '10' } });
      await daemon.restart();
      expect(await noted()).toMatchObject({ resources, overhead: { cpu_shares: '10' } });
      expect(readFileSync(join(cgroup, 'memory.limit_in_bytes'), 'utf8')).toBe(before);
      await expect(daemon.cri.UpdatePodSandboxResources({ pod_sandbox_id: podId, resources: { cpu_period: '1' } })).rejects.toMatchObject({
        code: status.INVALID_ARGUMENT,
        message: expect.stringContaining('resources.cpu_period'),
      });
      await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
      await expect(daemon.cri.UpdatePodSandboxResources({ pod_sandbox_id: podId, resources })).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
    },
  );
});
