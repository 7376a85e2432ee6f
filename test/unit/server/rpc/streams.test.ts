import { expect, test } from 'vitest';
import { ContainerState, type Init, PodSandboxState, type RpcName, type Rpcs } from '../../../../proto/cri.ts';
import { listContainers, streamContainers } from '../../../../server/rpc/container.ts';
import { listPodSandbox, streamPodSandboxes } from '../../../../server/rpc/sandbox.ts';
import { listContainerStats, listPodSandboxStats, streamContainerStats, streamPodSandboxStats } from '../../../../server/rpc/stats.ts';
import { type Api, serveApi } from '../../../fakes/api.ts';

const COUNT = 250;

/** As much of the daemon as the lists use: pods and containers in turn running and not, without any process. */
function parts(): never {
  const named = (serial: number) => ({ id: String(serial).padStart(64, '0'), createdAt: String(serial), claimed: true, labels: { half: String(serial % 2) } });
  const metadata = { name: 'n', namespace: 'ns', uid: 'u', attempt: 0 };
  const sandboxes = Array.from({ length: COUNT }, (_, serial) => ({
    ...named(serial),
    config: { metadata, labels: named(serial).labels, annotations: {} },
    state: serial % 2 === 0 ? 'ready' : 'notReady',
    namespaces: {},
    runtimeHandler: '',
    cgroupParent: '/pods',
    cgroup: '/pods/p',
  }));
  const containers = Array.from({ length: COUNT }, (_, serial) => ({
    ...named(serial),
    sandboxId: named(serial).id,
    metadata,
    annotations: {},
    image: { image: 'busybox' },
    imageId: 'i',
    cgroup: '/pods/c',
    state: serial % 2 === 0 ? { name: 'running', init: { pid: 0, startTime: '0' } } : { name: 'created' },
  }));
  return {
    sandboxes: new Map(sandboxes.map((sandbox) => [sandbox.id, sandbox])),
    containers: new Map(containers.map((container) => [container.id, container])),
    doomed: new Set(),
    making: new Map(),
    collector: { sample: async () => undefined },
    writable: { get: () => undefined },
    storage: { find: () => undefined },
  } as never;
}

async function collect<Name extends RpcName>(api: Api, rpc: Name, request: Init<Rpcs[Name]['request']>): Promise<object[][]> {
  const portions: object[][] = [];
  for await (const message of api.stream(rpc, request)) portions.push(...(Object.values(message) as object[][]));
  return portions;
}

test.each([
  ['StreamContainers', 'ListContainers', {}, COUNT],
  ['StreamContainers', 'ListContainers', { filter: { state: { state: ContainerState.CONTAINER_RUNNING }, label_selector: { half: '0' } } }, COUNT / 2],
  ['StreamPodSandboxes', 'ListPodSandbox', {}, COUNT],
  ['StreamPodSandboxes', 'ListPodSandbox', { filter: { state: { state: PodSandboxState.SANDBOX_NOTREADY } } }, COUNT / 2],
  ['StreamContainerStats', 'ListContainerStats', {}, COUNT / 2],
  ['StreamContainerStats', 'ListContainerStats', { filter: { label_selector: { half: '1' } } }, 0],
  ['StreamPodSandboxStats', 'ListPodSandboxStats', {}, COUNT / 2],
] as const)('%s sends what %s answers for %j, in portions', async (stream, list, request, count) => {
  const all = parts();
  await using api = await serveApi({
    StreamContainers: streamContainers(all),
    ListContainers: listContainers(all),
    StreamPodSandboxes: streamPodSandboxes(all),
    ListPodSandbox: listPodSandbox(all),
    StreamContainerStats: streamContainerStats(all),
    ListContainerStats: listContainerStats(all),
    StreamPodSandboxStats: streamPodSandboxStats(all),
    ListPodSandboxStats: listPodSandboxStats(all),
  });
  const portions = await collect(api, stream, request as never);
  expect(portions.flat()).toHaveLength(count);
  expect(portions.every(({ length }) => length <= 100)).toBe(true);
  expect(portions.flat()).toEqual(Object.values(await api.call(list, request as never))[0]);
});
