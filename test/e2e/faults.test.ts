import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest';
import { mount, umount } from '#base/sys.ts';
import { ContainerState, PodSandboxState } from '../../proto/cri.ts';
import { containerStatus, removePod } from '../support/calls.ts';
import { type Daemon, type Handler, removePods, startDaemon } from '../support/daemon.ts';
import type { Fault } from '../support/faults.ts';
import { BUSYBOX } from '../support/images.ts';
import { ensureImage, makeContainer, makePod, type Pod, runPod, startContainer, startPod } from '../support/pod.ts';
import { lasting, remains, removeLast } from '../support/remains.ts';
import { until } from '../support/wait.ts';

interface Breakage {
  readonly what: string;
  readonly program: string;
  readonly verb: string;
  readonly fault: Fault | 'missing';
  /** What the error must say. */
  readonly says: RegExp;
}

function breakIt({ faults }: Daemon, { program, verb, fault }: Breakage): void {
  if (fault === 'missing') faults.hide(program);
  else faults.set(program, verb, fault);
}

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

  const create = (pod: Pod, podId: string, config = makeContainer(pod)) =>
    daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config });

  const monitorAndRuntime: Breakage[] = [
    { what: 'conmon is missing', program: 'conmon', verb: 'any', fault: 'missing', says: /conmon/ },
    { what: 'conmon fails', program: 'conmon', verb: 'any', fault: 'fail', says: /monitor.*injected failure/ },
    { what: 'conmon is killed', program: 'conmon', verb: 'any', fault: 'die', says: /monitor/ },
    { what: 'the OCI runtime is missing', program: handler, verb: 'create', fault: 'missing', says: new RegExp(handler) },
    { what: 'the OCI runtime fails to create', program: handler, verb: 'create', fault: 'fail', says: /injected failure/ },
    { what: 'the OCI runtime is killed while it creates', program: handler, verb: 'create', fault: 'die', says: /create/ },
  ];

  describe('RunPodSandbox() says why, leaves nothing, and works again', () => {
    test.each<Breakage>([
      { what: 'the CNI plugin fails', program: 'bridge', verb: 'ADD', fault: 'fail', says: /bridge.*injected failure/ },
      { what: 'the CNI plugin prints rubbish', program: 'bridge', verb: 'ADD', fault: 'rubbish', says: /bridge/ },
      { what: 'the CNI plugin hangs', program: 'bridge', verb: 'ADD', fault: 'hang', says: /bridge/ },
      { what: 'the CNI plugin is killed', program: 'bridge', verb: 'ADD', fault: 'die', says: /bridge/ },
      { what: 'the address plugin fails', program: 'host-local', verb: 'ADD', fault: 'fail', says: /injected failure/ },
      { what: 'the second CNI plugin fails', program: 'portmap', verb: 'ADD', fault: 'fail', says: /portmap.*injected failure/ },
      ...monitorAndRuntime,
      { what: 'the OCI runtime fails to start', program: handler, verb: 'start', fault: 'fail', says: /injected failure/ },
      { what: 'the OCI runtime is killed while it starts', program: handler, verb: 'start', fault: 'die', says: /start/ },
    ])('when $what', async (breakage) => {
      const pod = makePod(daemon);
      breakIt(daemon, breakage);
      await expect(runPod(daemon, pod)).rejects.toThrow(breakage.says);
      expect((await daemon.cri.ListPodSandbox()).items).toEqual([]);
      daemon.faults.clear();
      expect(await lasting(daemon)).toEqual([]);
      await removeLast(daemon, await runPod(daemon, pod));
    });
  });

  test.each(['bridge', 'host-local', 'portmap'])(
    'RunPodSandbox() waits while the CNI plugin %s is missing, says so, and its retry gets the pod',
    async (plugin) => {
      const pod = makePod(daemon);
      daemon.faults.hide(plugin);
      const network = async () => (await daemon.cri.Status({})).status?.conditions.find(({ type }) => type === 'NetworkReady');
      await until('the network not to be ready', async () => (await network())?.status === false);
      expect(await network()).toMatchObject({ reason: 'NetworkPluginNotReady', message: expect.stringContaining(`plugin ${plugin} was not found in`) });
      await expect(daemon.cri.RunPodSandbox({ config: pod.config }, { deadlineMs: 2_000 })).rejects.toMatchObject({
        code: status.DEADLINE_EXCEEDED,
        details: expect.stringMatching(new RegExp(`waiting for the pod network .*plugin ${plugin} was not found in .* did not finish within the deadline`)),
      });
      expect((await daemon.cri.ListPodSandbox()).items).toEqual([]);
      daemon.faults.clear();
      await removeLast(daemon, await runPod(daemon, pod));
    },
  );

  describe('CreateContainer() says why, leaves nothing of the container, and works again', () => {
    let pod: Pod;
    let podId: string;
    let before: string[];
    beforeEach(async () => {
      pod = makePod(daemon);
      podId = await runPod(daemon, pod);
      before = await remains(daemon);
    });

    async function recovers(): Promise<void> {
      await until('what is left to go', async () => (await remains(daemon)).length <= before.length);
      expect(await remains(daemon)).toEqual(before);
      expect((await daemon.cri.ListContainers()).containers).toEqual([]);
      expect(readdirSync(join(pod.logDirectory, 'main'))).toEqual([]);
      const { containerId } = await startContainer(daemon, pod, podId);
      expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_RUNNING);
      await removeLast(daemon, podId);
    }

    test.each(monitorAndRuntime)('when $what', async (breakage) => {
      breakIt(daemon, breakage);
      await expect(create(pod, podId)).rejects.toThrow(breakage.says);
      daemon.faults.clear();
      await recovers();
    });

    test('when the overlay cannot be mounted', async () => {
      const layers = join(daemon.root, 'layers');
      renameSync(layers, `${layers}.away`);
      mkdirSync(layers);
      await expect(create(pod, podId)).rejects.toThrow(/mount|layer/);
      rmSync(layers, { recursive: true });
      renameSync(`${layers}.away`, layers);
      await recovers();
    });

    test('when the image is gone', async () => {
      await daemon.cri.RemoveImage({ image: { image: BUSYBOX } });
      await expect(create(pod, podId)).rejects.toThrow(/busybox/);
      await ensureImage(daemon, BUSYBOX);
      await recovers();
    });

    test('when the directory of the log is a file', async () => {
      const config = makeContainer(pod);
      rmSync(join(pod.logDirectory, 'main'), { recursive: true });
      writeFileSync(join(pod.logDirectory, 'main'), '');
      await expect(create(pod, podId, config)).rejects.toThrow(/log/);
      rmSync(join(pod.logDirectory, 'main'));
      mkdirSync(join(pod.logDirectory, 'main'));
      await recovers();
    });

    test('when a mount has no source', async () => {
      const plain = makeContainer(pod);
      const config = { ...plain, mounts: [...(plain.mounts ?? []), { container_path: '/data', host_path: '/proc/none/of/this' }] };
      await expect(create(pod, podId, config)).rejects.toThrow(/proc\/none\/of\/this/);
      await recovers();
    });
  });

  describe('StartContainer() leaves an EXITED container with the reason', () => {
    test.each<Breakage>([
      { what: 'the OCI runtime fails', program: handler, verb: 'start', fault: 'fail', says: /injected failure/ },
      { what: 'the OCI runtime is killed', program: handler, verb: 'start', fault: 'die', says: /start/ },
      { what: 'the OCI runtime is missing', program: handler, verb: 'start', fault: 'missing', says: new RegExp(handler) },
    ])('when $what', async (breakage) => {
      const pod = makePod(daemon);
      const podId = await runPod(daemon, pod);
      const { container_id } = await create(pod, podId);
      breakIt(daemon, breakage);
      await expect(daemon.cri.StartContainer({ container_id })).rejects.toThrow(breakage.says);
      daemon.faults.clear();
      const found = await containerStatus(daemon, container_id);
      expect(found?.state).toBe(ContainerState.CONTAINER_EXITED);
      expect(found?.exit_code).not.toBe(0);
      expect(found?.reason).toBe('StartError');
      expect(found?.message).toMatch(breakage.says);
      expect(BigInt(found?.finished_at ?? 0)).toBeGreaterThan(BigInt(found?.created_at ?? 0));
      await daemon.cri.RemoveContainer({ container_id });
      await startContainer(daemon, pod, podId, { attempt: 1 });
      await removeLast(daemon, podId);
    });

    test('when the OCI runtime hangs and then fails, and the caller hears of it in time', async () => {
      const pod = makePod(daemon);
      const podId = await runPod(daemon, pod);
      const { container_id } = await create(pod, podId);
      daemon.faults.set(handler, 'start', 'hang');
      await expect(daemon.cri.StartContainer({ container_id }, { deadlineMs: 1_000 })).rejects.toMatchObject({
        code: status.DEADLINE_EXCEEDED,
        details: expect.stringMatching(/start/i),
      });
      daemon.faults.clear();
      await until('the end', async () => (await containerStatus(daemon, container_id)).state === ContainerState.CONTAINER_EXITED);
      await removeLast(daemon, podId);
    });
  });

  test('a CNI DEL that fails is told, remembered, and repeated until it succeeds', async () => {
    const { podId, containerId } = await startPod(daemon);
    daemon.faults.set('bridge', 'DEL', 'fail');
    await expect(daemon.cri.StopPodSandbox({ pod_sandbox_id: podId })).rejects.toThrow(/bridge.*injected failure/);
    expect((await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).status?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_EXITED);
    await expect(daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId })).rejects.toThrow(/bridge.*injected failure/);
    expect((await remains(daemon)).filter((line) => line.startsWith('ns/netns'))).toHaveLength(1);
    await daemon.restart();
    await expect(daemon.cri.StopPodSandbox({ pod_sandbox_id: podId })).rejects.toThrow(/bridge.*injected failure/);
    daemon.faults.clear();
    await until(
      'DEL without being asked',
      async () => !(await remains(daemon)).some((line) => line.startsWith('ns/netns') || line.startsWith('address')),
      60_000,
    );
    await removeLast(daemon, podId);
  });

  test('a container whose kill or delete fails in the OCI runtime is stopped and removed nevertheless, or by the next call', async () => {
    const { podId, containerId } = await startPod(daemon);
    daemon.faults.set(handler, 'kill', 'fail');
    daemon.faults.set(handler, 'delete', 'fail');
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '1' }).catch(() => {});
    await daemon.cri.RemoveContainer({ container_id: containerId }).catch(() => {});
    daemon.faults.clear();
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '1' });
    await daemon.cri.RemoveContainer({ container_id: containerId });
    await removeLast(daemon, podId);
  });

  test('an OCI runtime that fails or is killed in exec is an error, and the next exec works', async () => {
    const { podId, containerId } = await startPod(daemon);
    const exec = () => daemon.cri.ExecSync({ container_id: containerId, cmd: ['true'], timeout: '10' });
    daemon.faults.set(handler, 'exec', 'die');
    await expect(exec()).rejects.toThrow(/exec/);
    daemon.faults.clear();
    expect((await exec()).exit_code).toBe(0);
    await removeLast(daemon, podId);
  });
});

describe('a full disk', () => {
  let disk: string;
  let daemon: Daemon;
  beforeEach(async () => {
    disk = join(tmpdir(), 'disk');
    mkdirSync(disk);
    mount('tmpfs', disk, 'tmpfs', 0, 'size=48m');
    daemon = await startDaemon({ handler: 'crun', registry: inject('registry'), config: { berth: { root: join(disk, 'root') } } });
  });
  afterEach(async () => {
    await daemon[Symbol.asyncDispose]();
    umount(disk);
    rmSync(disk, { recursive: true });
  });

  /** Takes the last byte; returns what gives them back. */
  function fill(): () => void {
    const path = join(disk, 'filler');
    try {
      for (let index = 0; ; index += 1) writeFileSync(path, Buffer.alloc(index < 48 ? 1024 ** 2 : 4096), { flag: 'a' });
    } catch {
      // ENOSPC: now it is full
    }
    return () => rmSync(path);
  }

  test('is the reason of each creation that fails, and nothing is left of it', async () => {
    const pod = makePod(daemon);
    let empty = fill();
    await expect(runPod(daemon, pod)).rejects.toThrow(/ENOSPC|no space/i);
    await expect(daemon.cri.PullImage({ image: { image: BUSYBOX } })).rejects.toThrow(/ENOSPC|no space/i);
    empty();
    expect(await lasting(daemon)).toEqual([]);
    expect((await daemon.cri.ListImages()).images).toEqual([]);
    const podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
    const before = await remains(daemon);
    empty = fill();
    const config = makeContainer(pod);
    await expect(daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config })).rejects.toThrow(/ENOSPC|no space/i);
    empty();
    await until('what is left to go', async () => (await remains(daemon)).length <= before.length);
    const { containerId } = await startContainer(daemon, pod, podId);
    empty = fill();
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' }).catch(() => {});
    await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId }).catch(() => {});
    await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId }).catch(() => {});
    empty();
    await removePod(daemon, podId);
    expect(await lasting(daemon)).toEqual([]);
  });
});
