import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as grpc } from '@grpc/grpc-js';
import { expect, inject, test } from 'vitest';
import { run } from '#base/exec.ts';
import { removePod, shell } from '../support/calls.ts';
import { startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX } from '../support/images.ts';
import { ensureImage, makeContainer, makePod, type PodOptions, runPod } from '../support/pod.ts';
import { lasting } from '../support/remains.ts';
import { findTool } from '../support/tool.ts';

/** Debian 12's runtimes do not know them; test/run builds a runc that does. */
const newRunc = findTool('runc-new');
const features = newRunc === undefined ? '{}' : (await run(newRunc, ['features'], { signal: AbortSignal.timeout(10_000) })).stdout;
const canMove = (JSON.parse(features) as { linux?: { netDevices?: { enabled?: boolean } } }).linux?.netDevices?.enabled === true;
if (!canMove) console.warn('SKIPPED: network devices of CDI: run test/run once, which builds a runc that knows them');

const DEVICE = 'vendor.com/nic=a';

const ip = (...args: string[]) => run('ip', args, { signal: AbortSignal.timeout(10_000) });

test.skipIf(!canMove)(
  'a network device of CDI 1.1 moves into the pod under the name that it has there, and comes to nobody else',
  proves('ContainerConfig.CDI_devices'),
  async () => {
    const cdi = mkdtempSync('/tmp/cdi-');
    const own = `bt-nic${process.pid % 10_000}`;
    const netDevices = [{ hostInterfaceName: own, name: 'net1' }];
    writeFileSync(
      join(cdi, 'nic.json'),
      JSON.stringify({ cdiVersion: '1.1.0', kind: 'vendor.com/nic', devices: [{ name: 'a', containerEdits: { netDevices } }] }),
    );
    try {
      await ip('link', 'add', own, 'type', 'veth', 'peer', 'name', `${own}p`);
      await using daemon = await startDaemon({
        handler: 'runc',
        registry: inject('registry'),
        config: { runtime: { default_runtime: 'newer', cdi_spec_dirs: cdi }, 'runtime.runtimes.newer': { runtime_path: newRunc ?? '' } },
      });
      await ensureImage(daemon, BUSYBOX);
      const create = async (options: PodOptions) => {
        const pod = makePod(daemon, options);
        const podId = await runPod(daemon, pod);
        const config = { ...makeContainer(pod), CDI_devices: [{ name: DEVICE }] };
        const created = daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config });
        return { podId, created };
      };
      const onNode = await create({ hostNetwork: true });
      await expect(onNode.created).rejects.toMatchObject({
        code: grpc.INVALID_ARGUMENT,
        details: expect.stringContaining(`network devices, such as "${own}", are not for a pod on the node's network`),
      });
      const { podId, created } = await create({});
      const { container_id } = await created;
      await daemon.cri.StartContainer({ container_id });
      expect(await shell(daemon, container_id, 'ls /sys/class/net')).toBe('eth0\nlo\nnet1');
      await expect(ip('link', 'show', own)).rejects.toThrow('does not exist');
      for (const id of [podId, onNode.podId]) await removePod(daemon, id);
      expect(await lasting(daemon)).toEqual([]);
    } finally {
      await ip('link', 'delete', `${own}p`).catch(() => {}); // it goes with its peer, which goes with the pod's namespace
      rmSync(cdi, { recursive: true });
    }
  },
);
