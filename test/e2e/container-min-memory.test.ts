import { readFileSync, writeFileSync } from 'node:fs';
import { status } from '@grpc/grpc-js';
import { expect, inject, test } from 'vitest';
import { defaults } from '../../server/config.ts';
import { type Handler, startDaemon } from '../support/daemon.ts';
import { makeContainer, startContainer, startPod } from '../support/pod.ts';
import { lasting } from '../support/remains.ts';
import { findTool } from '../support/tool.ts';

const MIB = 1024 ** 2;

test.each<Handler>(['crun', 'runc'])('a memory limit below container_min_memory of %s is refused, and every other one works', async (handler) => {
  const least = 10 * MIB;
  const path = findTool(handler) ?? '';
  const config = { runtime: { default_runtime: 'least' }, 'runtime.runtimes.least': { runtime_path: path, container_min_memory: '10MiB' } };
  await using daemon = await startDaemon({ handler, registry: inject('registry'), config });
  const { pod, podId, containerId } = await startPod(daemon, {}, { resources: { memory_limit_in_bytes: String(least) } });
  const limitOf = async (container_id: string) => (await daemon.cri.ContainerStatus({ container_id })).status?.resources?.linux?.memory_limit_in_bytes;
  const below = { memory_limit_in_bytes: String(least - 1) };
  const refusal = (field: string) => ({
    code: status.INVALID_ARGUMENT,
    message: expect.stringContaining(`${field}.memory_limit_in_bytes: ${least - 1} is below ${least}, the container_min_memory of the runtime handler`),
  });
  const container = makeContainer(pod, { name: 'below', resources: below });
  await expect(daemon.cri.CreateContainer({ pod_sandbox_id: podId, config: container, sandbox_config: pod.config })).rejects.toMatchObject(
    refusal('config.linux.resources'),
  );
  expect((await daemon.cri.ListContainers({})).containers.map(({ id }) => id)).toEqual([containerId]);
  await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux: below })).rejects.toMatchObject(refusal('linux'));
  expect(await limitOf(containerId)).toBe(String(least));
  const without = await startContainer(daemon, pod, podId, { name: 'without', resources: {} });
  await daemon.cri.UpdateContainerResources({ container_id: without.containerId, linux: { memory_limit_in_bytes: String(least) } });
  expect(await limitOf(without.containerId)).toBe(String(least));

  // A minimum raised later is for new limits: the kubelet's updates of other things go through.
  writeFileSync(daemon.configFile, readFileSync(daemon.configFile, 'utf8').replace('container_min_memory = 10MiB', 'container_min_memory = 1GiB'));
  await daemon.restart();
  await daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { cpu_shares: '300' } });
  await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { memory_limit_in_bytes: String(64 * MIB) } })).rejects.toThrow(
    `is below ${1024 * MIB}`,
  );
  await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
  await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
  expect(await lasting(daemon)).toEqual([]);
});

test.each<Handler>(['crun', 'runc'])('a container with the least memory of %s starts, runs a command and stops', async (handler) => {
  await using daemon = await startDaemon({ handler, registry: inject('registry') });
  const least = defaults.runtime.runtimes[handler]?.containerMinMemoryBytes ?? 0;
  expect(least).toBeGreaterThan(0);
  const { containerId } = await startPod(daemon, {}, { resources: { memory_limit_in_bytes: String(least) } });
  expect((await daemon.cri.ExecSync({ container_id: containerId, cmd: ['true'], timeout: '20' })).exit_code).toBe(0);
});
