import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { cgroupFile } from '../support/limits.ts';
import { makePod, startContainer, startPod } from '../support/pod.ts';
import { processesOf } from '../support/processes.ts';
import { until } from '../support/wait.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  beforeAll(async () => {
    daemon = await startDaemon({
      handler,
      registry: inject('registry'),
      config: {
        runtime: {
          default_ulimits: 'nofile=1000:2000, core=0',
          default_env: 'FROM_THE_NODE=yes',
          default_sysctls: 'net.ipv4.ip_unprivileged_port_start=0, kernel.shm_rmid_forced=1',
          pids_limit: 77,
        },
        'runtime.runtimes.plain': { runtime_path: join('/usr', handler === 'crun' ? 'bin/crun' : 'sbin/runc') },
        'runtime.runtimes.gated': {
          runtime_path: join('/usr', handler === 'crun' ? 'bin/crun' : 'sbin/runc'),
          privileged_without_host_devices: true,
          allowed_annotations: 'example.com/*, org.systemd.property.ExecStartPre',
        },
      },
    });
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  const initOf = (id: string): number => processesOf(daemon, id).init;
  const specOf = (id: string) => JSON.parse(readFileSync(join(daemon.runroot, 'bundles', id, 'config.json'), 'utf8'));

  test('sysctls are set in the pod, over those of the node’s configuration', proves('LinuxPodSandboxConfig.sysctls'), async () => {
    const { containerId } = await startPod(daemon, { sysctls: { 'net.ipv4.ip_unprivileged_port_start': '1000', 'kernel.msgmax': '9000' } });
    expect(await shell(daemon, containerId, 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax /proc/sys/kernel/shm_rmid_forced')).toBe(
      '1000\n9000\n1',
    );
    const onNode = await startPod(daemon, { hostNetwork: true });
    const own = readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8').trim();
    expect(await shell(daemon, onNode.containerId, 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start')).toBe(own);
  });

  test('what the configuration gives to every container: limits, environment, processes', async () => {
    const { containerId } = await startPod(daemon);
    const limits = readFileSync(`/proc/${initOf(containerId)}/limits`, 'utf8');
    expect(limits).toMatch(/Max open files +1000 +2000/);
    expect(limits).toMatch(/Max core file size +0 +0/);
    expect(await shell(daemon, containerId, 'echo $FROM_THE_NODE')).toBe('yes');
    expect(cgroupFile(initOf(containerId), 'pids.max')).toBe('77');
  });

  test('several handlers at once, each with its own settings', async () => {
    const annotations = { 'example.com/knob': 'on', 'other.com/knob': 'on', 'org.systemd.property.ExecStartPre': "['/bin/touch /evil']" };
    const start = async (runtime_handler: string) => {
      const pod = makePod(daemon, { privileged: true, annotations });
      const { pod_sandbox_id } = await daemon.cri.RunPodSandbox({ config: pod.config, runtime_handler });
      const { containerId } = await startContainer(daemon, pod, pod_sandbox_id, { security: { privileged: true }, annotations });
      return { podId: pod_sandbox_id, containerId };
    };
    const plain = await start('plain');
    const gated = await start('gated');
    // CVE-2024-3154: a property of a systemd unit is never a pod's to set
    expect(specOf(plain.containerId).annotations ?? {}).toEqual({});
    expect(specOf(gated.containerId).annotations).toEqual({ 'example.com/knob': 'on' });
    const devices = (id: string): number => specOf(id).linux.devices.length;
    expect(devices(plain.containerId)).toBeGreaterThan(0);
    expect(devices(gated.containerId)).toBe(0);
    for (const [name, { podId }] of Object.entries({ plain, gated })) {
      expect(existsSync(join(daemon.runroot, 'runtimes', name, podId))).toBe(true);
      const { status: found } = await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId });
      expect(found?.runtime_handler).toBe(name);
    }
    const { runtime_handlers } = await daemon.cri.Status();
    expect(runtime_handlers.map(({ name }) => name).sort()).toEqual(['', 'crun', 'gated', 'plain', 'runc']);
    // crun 1.8 does not tell: it is tried after the start
    await until('all handlers to be known', async () =>
      (await daemon.cri.Status()).runtime_handlers.every(({ features }) => features?.recursive_read_only_mounts === true),
    );
    await expect(daemon.cri.RunPodSandbox({ config: makePod(daemon).config, runtime_handler: 'none' })).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      message: expect.stringContaining('"none" is not configured'),
    });
  });
});
