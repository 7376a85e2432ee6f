import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { exited } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { cgroupOf, cgroupVersion } from '../support/limits.ts';
import { startContainer, startPod } from '../support/pod.ts';
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

  /** Writes more than the limit into memory, in the first process or in a child of it. */
  const hungry = 'head -c 200000000 /dev/zero | tail';

  test('a container that runs out of memory is told from others, with its limit and its peak', async () => {
    const limit = 24 * MIB;
    const resources = { memory_limit_in_bytes: String(limit) };
    const { containerId } = await startPod(daemon, {}, { command: ['tail', '/dev/zero'], resources });
    const found = await exited(daemon, containerId);
    expect(found).toMatchObject({
      exit_code: 137,
      reason: 'OOMKilled',
      message: expect.stringContaining(`the container's memory limit of ${limit} bytes was reached (peak `),
    });
    expect(Number(/peak (\d+)/.exec(found.message)?.[1])).toBeGreaterThan(limit / 2);
  });

  test('a child that ran out of memory counts when the container fails, and not when it ends well', async () => {
    const resources = { memory_limit_in_bytes: String(24 * MIB) };
    const { pod, podId, containerId } = await startPod(daemon, {}, { command: ['sh', '-c', `${hungry}; echo went on; exit 0`], resources });
    expect(await exited(daemon, containerId)).toMatchObject({ exit_code: 0, reason: 'Completed', message: '' });
    const failing = await startContainer(daemon, pod, podId, { name: 'failing', command: ['sh', '-c', `${hungry}; exit 3`], resources });
    expect(await exited(daemon, failing.containerId)).toMatchObject({ exit_code: 3, reason: 'OOMKilled' });
  });

  test("the pod's limit kills one container, and the others are not said to be out of memory", async () => {
    const { pod, podId, containerId } = await startPod(daemon, {}, { resources: {}, command: ['sh', '-c', 'trap "exit 9" TERM; while :; do sleep 0.1; done'] });
    const cgroup = join(cgroupOf(initOf(containerId), 'memory'), '..');
    writeFileSync(join(cgroup, 'memory.limit_in_bytes'), String(32 * MIB)); // as the kubelet does
    const hog = await startContainer(daemon, pod, podId, { name: 'hog', command: ['tail', '/dev/zero'], resources: { oom_score_adj: '1000' } });
    expect(await exited(daemon, hog.containerId)).toMatchObject({
      exit_code: 137,
      reason: 'OOMKilled',
      message: expect.stringContaining(`the pod's memory limit of ${32 * MIB} bytes was reached (peak `),
    });
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '20' });
    expect(await exited(daemon, containerId)).toMatchObject({ exit_code: 9, reason: 'Error', message: '' });
  });

  test('an end for want of memory while the daemon is away is known after it', async () => {
    const { containerId } = await startPod(
      daemon,
      {},
      { command: ['sh', '-c', 'while [ ! -e /go ]; do sleep 0.1; done; exec tail /dev/zero'], resources: { memory_limit_in_bytes: String(24 * MIB) } },
    );
    const { init } = processesOf(daemon, containerId);
    await daemon.kill('SIGKILL');
    writeFileSync(`/proc/${init}/root/go`, '');
    await until('its end', () => !existsSync(`/proc/${init}/root/go`));
    await daemon.start();
    expect(await exited(daemon, containerId)).toMatchObject({
      exit_code: 137,
      reason: 'OOMKilled',
      message: expect.stringContaining("the container's memory limit"),
    });
  });
});
