import { readFileSync, readlinkSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { NamespaceMode, Protocol, SupplementalGroupsPolicy } from '../../proto/cri.ts';
import { removePod, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX, NGINX } from '../support/images.ts';
import { ensureImage, makeContainer, makePod, runPod, startContainer, startPod } from '../support/pod.ts';
import { processesOf } from '../support/processes.ts';
import { endEmpty } from '../support/remains.ts';
import { until } from '../support/wait.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;

  beforeAll(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
  });
  afterAll(() => endEmpty(daemon));

  test(
    "the pod's own process is the user that the pod names, on a root that nobody can write to",
    proves(
      'LinuxSandboxSecurityContext.run_as_user',
      'LinuxSandboxSecurityContext.run_as_group',
      'LinuxSandboxSecurityContext.supplemental_groups',
      'LinuxSandboxSecurityContext.supplemental_groups_policy',
      'LinuxSandboxSecurityContext.readonly_rootfs',
    ),
    async () => {
      for (const supplemental_groups_policy of [SupplementalGroupsPolicy.Merge, SupplementalGroupsPolicy.Strict]) {
        const security = { run_as_user: { value: '1234' }, run_as_group: { value: '2345' }, supplemental_groups: ['3456'], supplemental_groups_policy };
        const podId = await runPod(daemon, makePod(daemon, { security: { ...security, readonly_rootfs: true } }));
        const { init } = processesOf(daemon, podId);
        const status = readFileSync(`/proc/${init}/status`, 'utf8');
        expect(status).toMatch(/^Uid:\t1234\t/m);
        expect(status).toMatch(/^Gid:\t2345\t/m);
        expect(/^Groups:\t(.*?) *$/m.exec(status)?.[1]?.split(' ').sort()).toEqual(['2345', '3456']);
        expect(readFileSync(`/proc/${init}/mountinfo`, 'utf8')).toMatch(/ \/ ro[, ]/);
        await removePod(daemon, podId);
      }
      const security = { supplemental_groups_policy: 9 as SupplementalGroupsPolicy };
      await expect(runPod(daemon, makePod(daemon, { security }))).rejects.toThrow('config.linux.security_context.supplemental_groups_policy: 9 is no policy');
      await expect(runPod(daemon, makePod(daemon, { security: { run_as_group: { value: '1' } } }))).rejects.toThrow('run_as_group: "1" needs run_as_user');
    },
  );

  test("a pod has an ipc namespace of its own, or the node's", proves('NamespaceOption.ipc'), async () => {
    const own = readlinkSync('/proc/self/ns/ipc');
    const plain = await startPod(daemon);
    expect(await shell(daemon, plain.containerId, 'readlink /proc/self/ns/ipc')).not.toBe(own);
    await removePod(daemon, plain.podId);
    const options = { network: NamespaceMode.POD, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.NODE };
    const shared = await startPod(daemon, { security: { namespace_options: options } });
    expect(await shell(daemon, shared.containerId, 'readlink /proc/self/ns/ipc')).toBe(own);
    await removePod(daemon, shared.podId);
  });

  test('a container for debugging sees the processes of its target', proves('NamespaceOption.target_id'), async () => {
    const { pod, podId, containerId } = await startPod(daemon);
    const create = async (name: string, target_id: string) => {
      const plain = makeContainer(pod, { name });
      const namespace_options = { ...pod.config.linux?.security_context?.namespace_options, pid: NamespaceMode.TARGET, target_id };
      const linux = { ...plain.linux, security_context: { ...plain.linux?.security_context, namespace_options } };
      const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config: { ...plain, linux }, sandbox_config: pod.config });
      return container_id;
    };
    const debug = await create('debug', containerId);
    await daemon.cri.StartContainer({ container_id: debug });
    expect(await shell(daemon, debug, 'tr "\\0" " " </proc/1/cmdline; [ $$ -ne 1 ] && readlink /proc/1/ns/pid')).toBe(
      `sleep 10000 ${await shell(daemon, containerId, 'readlink /proc/1/ns/pid')}`,
    );
    await expect(create('astray', '0'.repeat(64))).rejects.toThrow(/namespace_options\.target_id: "0+" is no container of this pod/);
    await removePod(daemon, podId);
  });

  test('a host port listens at the address that it names', proves('PortMapping.host_ip'), async () => {
    const host_port = 30_000 + (Number.parseInt(daemon.network.slice(2, 6), 16) % 10_000);
    const pod = makePod(daemon);
    const port_mappings = [{ protocol: Protocol.TCP, container_port: 80, host_port, host_ip: '127.0.0.1' }];
    const { pod_sandbox_id: podId } = await daemon.cri.RunPodSandbox({ config: { ...pod.config, port_mappings } });
    await ensureImage(daemon, BUSYBOX);
    await startContainer(daemon, pod, podId, { image: NGINX, name: 'nginx', command: [] });
    const page = (address: string) => fetch(`http://${address}:${host_port}/`).then((response) => response.text());
    expect(await until('an answer', () => page('127.0.0.1').catch(() => undefined))).toContain('Welcome to nginx!');
    await expect(page(`${daemon.subnet}.1`)).rejects.toThrow();
    await removePod(daemon, podId);
  });
});
