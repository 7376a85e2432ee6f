import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, inject, test } from 'vitest';
import { run } from '#base/exec.ts';
import { umount } from '#base/sys.ts';
import { ContainerState, PodSandboxState } from '../../proto/cri.ts';
import { containerStatus, exited, removePod } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { BUSYBOX } from '../support/images.ts';
import { ensureImage, makeContainer, makePod, type Pod, type RunningPod, readLog, runPod, startContainer, startPod } from '../support/pod.ts';
import { lives, processesOf } from '../support/processes.ts';
import { lasting, remains } from '../support/remains.ts';
import { removeRules } from '../support/sweep.ts';
import { until } from '../support/wait.ts';

const TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount';

/** Ends with `code` as soon as the test lets it. */
const waiting = (code: number): string[] => ['sh', '-c', `while [ ! -e ${TOKEN}/go ]; do sleep 0.05; done; exit ${code}`];
const letGo = ({ pod }: { pod: Pod }): void => writeFileSync(join(pod.directory, 'volumes/token/go'), '');
const counting = ['sh', '-c', 'i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done'];

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  beforeEach(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
    await ensureImage(daemon, BUSYBOX);
  });
  afterEach(async () => {
    daemon.faults.clear();
    await daemon[Symbol.asyncDispose]();
  });

  async function podState(pod_sandbox_id: string): Promise<PodSandboxState | undefined> {
    return (await daemon.cri.PodSandboxStatus({ pod_sandbox_id })).status?.state;
  }

  test('after SIGKILL all 20 pods are as they were, and what ended meanwhile has its code and time', async () => {
    const started: RunningPod[] = [];
    for (let batch = 0; batch < 4; batch += 1) {
      const five = Array.from({ length: 5 }, (_item, index) => startPod(daemon, {}, { command: batch === 0 ? waiting(10 + index) : counting }));
      started.push(...(await Promise.all(five)));
    }
    const before = { pods: (await daemon.cri.ListPodSandbox()).items, containers: (await daemon.cri.ListContainers()).containers };
    const statuses = new Map(await Promise.all(started.map(async ({ containerId }) => [containerId, await containerStatus(daemon, containerId)] as const)));
    const addresses = await Promise.all(started.map(async ({ podId }) => (await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).status?.network?.ip));

    await daemon.kill('SIGKILL');
    const killedAt = BigInt(Date.now()) * 1_000_000n;
    const ending = started.slice(0, 5);
    for (const one of ending) letGo(one);
    await until('their ends', () => ending.every(({ containerId }) => readdirSync(join(daemon.runroot, 'exits')).includes(containerId)));
    const endedAt = BigInt(Date.now()) * 1_000_000n;
    await daemon.start();

    expect((await daemon.cri.ListPodSandbox()).items).toEqual(before.pods);
    const after = (await daemon.cri.ListContainers()).containers;
    const ended = new Set(ending.map(({ containerId }) => containerId));
    expect(after).toEqual(
      before.containers.map((container) => (ended.has(container.id) ? { ...container, state: ContainerState.CONTAINER_EXITED } : container)),
    );
    for (const [index, { containerId }] of ending.entries()) {
      const status = await containerStatus(daemon, containerId);
      expect(status).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exit_code: 10 + index, reason: 'Error' });
      expect(BigInt(status.finished_at)).toBeGreaterThan(killedAt - 50_000_000n); // the kernel's clock for files is some ms behind
      expect(BigInt(status.finished_at)).toBeLessThan(endedAt);
    }
    for (const { containerId } of started.slice(5)) expect(await containerStatus(daemon, containerId)).toEqual(statuses.get(containerId));
    expect(await Promise.all(started.map(async ({ podId }) => (await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).status?.network?.ip))).toEqual(
      addresses,
    );

    for (const { containerId, logPath } of started.slice(5, 8)) {
      const { exit_code } = await daemon.cri.ExecSync({ container_id: containerId, cmd: ['true'], timeout: '20' });
      expect(exit_code).toBe(0);
      renameSync(logPath, `${logPath}.1`);
      await daemon.cri.ReopenContainerLog({ container_id: containerId });
      await until('lines in the new log', () => readLog(logPath).length > 3);
      await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
      const numbers = [...readLog(`${logPath}.1`), ...readLog(logPath)].map(({ text }) => Number(text));
      expect(numbers).toEqual(numbers.map((_number, index) => index + 1));
    }
    await Promise.all(started.map(({ podId }) => removePod(daemon, podId)));
    expect(await lasting(daemon)).toEqual([]);
  });

  test('a container that ends after a restart is noticed', async () => {
    const running = await startPod(daemon, {}, { command: waiting(3) });
    await daemon.restart();
    letGo(running);
    expect(await exited(daemon, running.containerId)).toMatchObject({ exit_code: 3, reason: 'Error' });
  });

  test('a container whose monitor is killed ends, and says why', async () => {
    const { podId, containerId } = await startPod(daemon);
    const { init, monitor } = processesOf(daemon, containerId);
    process.kill(monitor, 'SIGKILL');
    const status = await exited(daemon, containerId);
    expect(status.exit_code).not.toBe(0);
    expect(status.message).toMatch(/monitor/);
    expect(lives(init)).toBe(false);
    await removePod(daemon, podId);
    expect(await lasting(daemon)).toEqual([]);
  });

  test('a container that dies together with its monitor is EXITED, never RUNNING for ever', async () => {
    const { podId, containerId } = await startPod(daemon);
    const { init, monitor } = processesOf(daemon, containerId);
    process.kill(monitor, 'SIGKILL');
    process.kill(init, 'SIGKILL');
    expect((await exited(daemon, containerId)).exit_code).not.toBe(0);
    await removePod(daemon, podId);
    expect(await lasting(daemon)).toEqual([]);
  });

  test('the same holds where both die while the daemon is dead', async () => {
    const { podId, containerId } = await startPod(daemon);
    const { init, monitor } = processesOf(daemon, containerId);
    await daemon.kill('SIGKILL');
    process.kill(monitor, 'SIGKILL');
    process.kill(init, 'SIGKILL');
    await until('their end', () => !lives(init));
    await daemon.start();
    expect((await exited(daemon, containerId)).exit_code).not.toBe(0);
    await removePod(daemon, podId);
    expect(await lasting(daemon)).toEqual([]);
  });

  test.each(['init', 'monitor'] as const)('a pod whose pause process has lost its %s can be cleared', async (which) => {
    const { podId, containerId } = await startPod(daemon);
    process.kill(processesOf(daemon, podId)[which], 'SIGKILL');
    if (which === 'init') await until('the pod is not ready', async () => (await podState(podId)) === PodSandboxState.SANDBOX_NOTREADY);
    await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
    expect(await podState(podId)).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_EXITED);
    await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
    expect(await lasting(daemon)).toEqual([]);
  });

  test('after a reboot pods are not ready, containers have ended, and all can be cleared and made anew', async () => {
    const { pod, podId, containerId } = await startPod(daemon);
    const done = await startContainer(daemon, pod, podId, { name: 'done', command: ['sh', '-c', 'exit 4'] });
    await exited(daemon, done.containerId);
    await daemon.kill('SIGKILL');
    await pretendReboot(daemon);
    await daemon.start();

    expect((await daemon.cri.ListPodSandbox()).items).toMatchObject([{ id: podId, state: PodSandboxState.SANDBOX_NOTREADY, labels: pod.config.labels }]);
    const lost = await containerStatus(daemon, containerId);
    expect(lost).toMatchObject({ state: ContainerState.CONTAINER_EXITED, labels: { 'io.kubernetes.container.name': 'main' } });
    expect(lost.exit_code).not.toBe(0);
    expect(lost.finished_at).not.toBe('0');
    expect(await containerStatus(daemon, done.containerId)).toMatchObject({ exit_code: 4, reason: 'Error' });

    await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
    const again = await startPod(daemon, { name: pod.config.metadata.name, uid: pod.config.metadata.uid, attempt: 1 }, { attempt: 1 });
    await daemon.cri.RemoveContainer({ container_id: containerId });
    await daemon.cri.RemoveContainer({ container_id: done.containerId });
    await removePod(daemon, podId);
    expect((await daemon.cri.ListPodSandbox()).items.map(({ id }) => id)).toEqual([again.podId]);
    await removePod(daemon, again.podId);
    expect(await lasting(daemon)).toEqual([]);
  });

  describe.each([
    ['bridge', 'ADD'],
    ['portmap', 'ADD'],
    ['conmon', 'any'],
    [handler, 'create'],
    [handler, 'start'],
  ])('SIGKILL during %s %s', (program, verb) => {
    test('of RunPodSandbox leaves nothing, and the retry works', async () => {
      const pod = makePod(daemon);
      daemon.faults.forget();
      daemon.faults.set(program, verb, 'hang');
      const call = daemon.cri.RunPodSandbox({ config: pod.config }).catch(() => undefined);
      await until('the step', () => daemon.faults.calls(program, verb) > 0);
      await daemon.kill('SIGKILL');
      await call;
      daemon.faults.clear();
      await daemon.start();
      expect((await daemon.cri.ListPodSandbox()).items).toEqual([]);
      expect(await lasting(daemon)).toEqual([]);
      const { containerId } = await startContainer(daemon, pod, await runPod(daemon, pod));
      expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_RUNNING);
    });
  });

  test.each([
    ['conmon', 'any'],
    [handler, 'create'],
  ])('SIGKILL during %s %s of CreateContainer leaves nothing of it, and the retry works', async (program, verb) => {
    const pod = makePod(daemon);
    const podId = await runPod(daemon, pod);
    const before = await remains(daemon);
    daemon.faults.forget();
    daemon.faults.set(program, verb, 'hang');
    const call = daemon.cri.CreateContainer({ pod_sandbox_id: podId, config: makeContainer(pod), sandbox_config: pod.config }).catch(() => undefined);
    await until('the step', () => daemon.faults.calls(program, verb) > 0);
    await daemon.kill('SIGKILL');
    await call;
    daemon.faults.clear();
    await daemon.start();
    expect((await daemon.cri.ListContainers()).containers).toEqual([]);
    await until('nothing of the container', async () => (await remains(daemon)).length === before.length);
    expect(await remains(daemon)).toEqual(before);
    const { containerId } = await startContainer(daemon, pod, podId);
    expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_RUNNING);
  });

  test('SIGKILL during StartContainer leaves a container whose state is true', async () => {
    const pod = makePod(daemon);
    const podId = await runPod(daemon, pod);
    const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config: makeContainer(pod), sandbox_config: pod.config });
    daemon.faults.forget();
    daemon.faults.set(handler, 'start', 'hold');
    const call = daemon.cri.StartContainer({ container_id }).catch(() => undefined);
    await until('the step', () => daemon.faults.calls(handler, 'start') > 0);
    await daemon.kill('SIGKILL');
    await call;
    daemon.faults.clear(); // the runtime lives on and starts it now
    const { init } = processesOf(daemon, container_id);
    await until('the start', () => readFileSync(`/proc/${init}/comm`, 'utf8').trim() === 'sleep');
    await daemon.start();
    const status = await containerStatus(daemon, container_id);
    expect(status.state).toBe(ContainerState.CONTAINER_RUNNING);
    expect(BigInt(status.started_at)).toBeGreaterThan(0n);
    await removePod(daemon, podId);
    expect(await lasting(daemon)).toEqual([]);
  });

  test.each([
    ['bridge', 'DEL'],
    [handler, 'delete'],
  ])('SIGKILL during %s %s of StopPodSandbox is made good by the next one', async (program, verb) => {
    const { podId } = await startPod(daemon);
    daemon.faults.forget();
    daemon.faults.set(program, verb, 'hang');
    const call = daemon.cri.StopPodSandbox({ pod_sandbox_id: podId }).catch(() => undefined);
    await until('the step', () => daemon.faults.calls(program, verb) > 0);
    await daemon.kill('SIGKILL');
    await call;
    daemon.faults.clear();
    await daemon.start();
    expect(await podState(podId)).toBe(PodSandboxState.SANDBOX_NOTREADY);
    await removePod(daemon, podId);
    expect(await lasting(daemon)).toEqual([]);
  });

  test('a graceful stop lets containers live, and what is in flight ends first', async () => {
    const { containerId, logPath } = await startPod(daemon, {}, { command: counting });
    const { init } = processesOf(daemon, containerId);
    daemon.faults.set('bridge', 'ADD', 'slow');
    const other = runPod(daemon, makePod(daemon));
    await until('the step', () => daemon.faults.calls('bridge', 'ADD') > 1);
    expect(await daemon.kill('SIGTERM')).toBe(0);
    const otherId = await other;
    expect(lives(init)).toBe(true);
    const lines = readLog(logPath).length;
    await until('more of the log', () => readLog(logPath).length > lines);
    await daemon.start();
    expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_RUNNING);
    expect(await podState(otherId)).toBe(PodSandboxState.SANDBOX_READY);
  });
});

/** All processes gone, and all that does not outlive a boot: sockets, bundles, namespaces, mounts, interfaces, rules. */
async function pretendReboot({ runroot, directory, root, network }: Daemon): Promise<void> {
  for (const id of readdirSync(join(runroot, 'bundles'))) {
    const { init, monitor } = processesOf({ runroot }, id);
    for (const pid of [monitor, init].filter(lives)) process.kill(pid, 'SIGKILL');
    await until('their end', () => !lives(init) && !lives(monitor));
  }
  const mounted = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${directory}/`));
  for (const path of mounted.reverse()) umount(path, 2);
  rmSync(runroot, { recursive: true, force: true });
  rmSync(join(directory, 'ns'), { recursive: true, force: true });
  await run('ip', ['link', 'del', network], { signal: AbortSignal.timeout(10_000) });
  await removeRules(network);
  writeFileSync(join(root, 'boot-id'), '00000000-0000-0000-0000-000000000000');
}
