import { existsSync } from 'node:fs';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { ContainerState } from '../../proto/cri.ts';
import { containerStatus } from '../support/calls.ts';
import { type Daemon, type Handler, removePods, startDaemon } from '../support/daemon.ts';
import { BUSYBOX } from '../support/images.ts';
import { makeContainer, makePod, runPod, startPod } from '../support/pod.ts';
import { holdingProxy } from '../support/proxy.ts';
import { removeLast } from '../support/remains.ts';
import { until } from '../support/wait.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  beforeAll(async () => {
    daemon = await startDaemon({
      handler,
      registry: inject('registry'),
      images: [BUSYBOX],
      config: { network: { cni_add_timeout: '2s', cni_del_timeout: '2s' } },
    });
  });
  afterEach(async () => {
    daemon.faults.clear();
    await removePods(daemon);
  });
  afterAll(() => daemon[Symbol.asyncDispose]());

  describe('a client that goes away in the middle', () => {
    /** Calls, waits for the step, leaves; then lets the step go on. */
    async function leave(call: (signal: AbortSignal) => Promise<unknown>, program: string, verb: string): Promise<void> {
      daemon.faults.forget();
      daemon.faults.set(program, verb, 'hold');
      const gone = new AbortController();
      const left = call(gone.signal);
      await until('the step', () => daemon.faults.calls(program, verb) > 0);
      gone.abort();
      await expect(left).rejects.toMatchObject({ code: status.CANCELLED });
      daemon.faults.clear();
    }

    test('of RunPodSandbox, CreateContainer and StartContainer finds what it asked for when it asks again', async () => {
      const pod = makePod(daemon);
      await leave((signal) => daemon.cri.RunPodSandbox({ config: pod.config }, { signal }), 'bridge', 'ADD');
      const podId = await runPod(daemon, pod);
      const request = { pod_sandbox_id: podId, config: makeContainer(pod), sandbox_config: pod.config };
      await leave((signal) => daemon.cri.CreateContainer(request, { signal }), handler, 'create');
      const { container_id } = await daemon.cri.CreateContainer(request);
      await leave((signal) => daemon.cri.StartContainer({ container_id }, { signal }), handler, 'start');
      await until('the start', async () => (await containerStatus(daemon, container_id)).state === ContainerState.CONTAINER_RUNNING);
      await removeLast(daemon, podId);
    });

    test('of StopContainer, RemoveContainer, StopPodSandbox and RemovePodSandbox can ask again', async () => {
      const { pod, podId, containerId } = await startPod(daemon);
      await leave((signal) => daemon.cri.StopPodSandbox({ pod_sandbox_id: podId }, { signal }), 'bridge', 'DEL');
      await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
      await daemon.cri.RemoveContainer({ container_id: containerId });
      await removeLast(daemon, podId);

      const { podId: other, containerId: stubborn } = await startPod(daemon, {}, { command: ['sh', '-c', 'trap "" TERM; while true; do sleep 0.1; done'] });
      const gone = new AbortController();
      const left = daemon.cri.StopContainer({ container_id: stubborn, timeout: '600' }, { signal: gone.signal, deadlineMs: 700_000 });
      await daemon.cri.ListContainers();
      gone.abort();
      await expect(left).rejects.toMatchObject({ code: status.CANCELLED });
      const removed = new AbortController();
      const removing = daemon.cri.RemoveContainer({ container_id: stubborn }, { signal: removed.signal }).catch(() => {});
      removed.abort();
      await removing;
      await daemon.cri.RemoveContainer({ container_id: stubborn });
      await leave((signal) => daemon.cri.RemovePodSandbox({ pod_sandbox_id: other }, { signal }), 'bridge', 'DEL');
      await removeLast(daemon, other);
      expect(existsSync(pod.logDirectory)).toBe(true);
    });

    test('of ExecSync takes its processes along', async () => {
      const { podId, containerId } = await startPod(daemon);
      const gone = new AbortController();
      const left = daemon.cri.ExecSync({ container_id: containerId, cmd: ['sh', '-c', 'touch /began; sleep 8001 & sleep 8002'] }, { signal: gone.signal });
      const shell = (script: string) => daemon.cri.ExecSync({ container_id: containerId, cmd: ['sh', '-c', script], timeout: '20' });
      await until('the command', async () => (await shell('test -e /began')).exit_code === 0);
      gone.abort();
      await expect(left).rejects.toMatchObject({ code: status.CANCELLED });
      await until('their end', async () => (await shell('cat /proc/[0-9]*/cmdline | tr "\\0" " " | grep -c "sleep 800[12]"')).stdout.toString().trim() === '0');
      await removeLast(daemon, podId);
    });
  });
});

test('a client that goes away in the middle of PullImage can ask again', async () => {
  await using proxy = await holdingProxy(inject('registry'));
  await using daemon = await startDaemon({ handler: 'crun', registry: proxy.address });
  proxy.hold(/\/blobs\//);
  const gone = new AbortController();
  const left = daemon.cri.PullImage({ image: { image: BUSYBOX } }, { signal: gone.signal });
  await until('the blobs', () => proxy.requests().some((path) => path.includes('/blobs/')));
  gone.abort();
  await expect(left).rejects.toMatchObject({ code: status.CANCELLED });
  proxy.release();
  await daemon.cri.PullImage({ image: { image: BUSYBOX } });
  expect((await daemon.cri.ListImages()).images).toHaveLength(1);
});
