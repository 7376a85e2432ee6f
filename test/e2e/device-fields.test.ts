import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status as grpc } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { makedev, mknod, S_IF } from '../../base/sys.ts';
import { containerStatus, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX } from '../support/images.ts';
import { MadeContainers } from '../support/made-containers.ts';
import { makePod, runPod } from '../support/pod.ts';
import { endEmpty } from '../support/remains.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let files: string;
  let daemon: Daemon;
  let podId: string;
  let made: MadeContainers;

  beforeAll(async () => {
    files = mkdtempSync(join(tmpdir(), 'berth-devices-'));
    chmodSync(files, 0o711);
    for (const name of ['cdi', 'cdi-run', 'hooks', 'hooks-etc']) mkdirSync(join(files, name));
    const runtime = {
      cdi_spec_dirs: `${files}/cdi, ${files}/cdi-run`,
      hooks_dir: `${files}/hooks, ${files}/hooks-etc`,
      device_ownership_from_security_context: true,
    };
    daemon = await startDaemon({ handler, registry: inject('registry'), images: [BUSYBOX], config: { runtime } });
    const pod = makePod(daemon, { annotations: { 'example.com/traced': 'yes' } });
    podId = await runPod(daemon, pod);
    made = new MadeContainers(daemon, pod, podId);
  });
  afterAll(() => endEmpty(daemon, podId).finally(() => rmSync(files, { recursive: true, force: true })));

  test(
    'devices are there with their permissions, and belong to the user who asked for them',
    proves('ContainerConfig.devices', 'Device.container_path', 'Device.host_path', 'Device.permissions'),
    async () => {
      mkdirSync(join(files, 'nodes/below'), { recursive: true });
      mknod(join(files, 'nodes/below/full'), S_IF.CHR | 0o666, makedev(1, 7));
      const id = await made.start(
        {
          devices: [
            { host_path: '/dev/zero', container_path: '/dev/my-zero', permissions: 'r' },
            { host_path: '/dev/null', container_path: '/dev/my-null', permissions: 'rwm' },
            { host_path: join(files, 'nodes'), container_path: '/dev/all', permissions: 'rw' },
            { host_path: '/dev/kmsg', container_path: '/dev/only-read', permissions: 'r' },
            { host_path: '/dev/kmsg', container_path: '/dev/not-written', permissions: 'rm' },
          ],
        },
        { run_as_user: { value: '1000' }, run_as_group: { value: '2000' } },
      );
      expect(await shell(daemon, id, 'stat -c %u:%g:%t:%T /dev/my-zero /dev/my-null /dev/all/below/full; head -c 1 /dev/my-zero | wc -c')).toBe(
        '1000:2000:1:5\n1000:2000:1:3\n1000:2000:1:7\n1',
      );
      // runtimes allow the usual devices anyway; one beside them is denied what was not asked for, whoever owns its node
      expect(await shell(daemon, id, 'echo x >/dev/my-null && echo written')).toBe('written');
      const write = 'for kmsg in /dev/only-read /dev/not-written; do (: >$kmsg) 2>&1; done | grep -c "not permitted" || true';
      expect(await shell(daemon, id, write)).toBe('2');
      const writable = await made.start(
        { devices: [{ host_path: '/dev/kmsg', container_path: '/dev/written', permissions: 'w' }] },
        { run_as_user: { value: '1000' }, run_as_group: { value: '2000' } },
      );
      expect(await shell(daemon, writable, ': >/dev/written && echo opened')).toBe('opened');
      await expect(made.create({ devices: [{ host_path: '/dev/not-there', container_path: '/dev/x', permissions: 'r' }] })).rejects.toThrow(
        'config.devices[0].host_path',
      );
      await expect(made.create({ devices: [{ host_path: '/dev/null', container_path: '/dev/x', permissions: 'rx' }] })).rejects.toThrow(
        'config.devices[0].permissions',
      );
    },
  );

  test('CDI devices bring environment, mounts, nodes, groups and hooks', proves('ContainerConfig.CDI_devices', 'CDIDevice.name'), async () => {
    const marker = join(files, 'cdi-hook-ran');
    writeFileSync(join(files, 'mark'), `#!/bin/sh\necho "$2" >>"${files}/$1"\n`);
    chmodSync(join(files, 'mark'), 0o755);
    mkdirSync(join(files, 'driver'), { recursive: true });
    writeFileSync(join(files, 'driver/lib'), 'driver');
    const kind = 'vendor.com/gpu';
    writeFileSync(
      join(files, 'cdi/gpu.yaml'),
      [
        'cdiVersion: "0.7.0"',
        `kind: ${kind}`,
        'containerEdits:',
        '  env: [GPU=all]',
        `  mounts: [{hostPath: ${files}/driver, containerPath: /driver, options: [ro, nosuid]}]`,
        '  additionalGids: [777]',
        'devices:',
        '  - name: "0"',
        '    containerEdits:',
        '      env: [GPU0=yes]',
        '      deviceNodes: [{path: /dev/gpu0, hostPath: /dev/zero, permissions: rw, fileMode: 432}]',
        `      hooks: [{hookName: createRuntime, path: ${files}/mark, args: [mark, cdi-hook-ran, gpu0]}]`,
      ].join('\n'),
    );
    writeFileSync(
      join(files, 'cdi-run/net.json'),
      JSON.stringify({ cdiVersion: '0.3.0', kind: 'vendor.com/net', devices: [{ name: 'a', containerEdits: { env: ['NET=a'] } }] }),
    );
    const devices = { CDI_devices: [{ name: `${kind}=0` }], annotations: { 'cdi.k8s.io/net': 'vendor.com/net=a' } };
    const id = await made.start(devices, { run_as_user: { value: '1000' } });
    expect(
      await shell(daemon, id, 'echo $GPU $GPU0 $NET; cat /driver/lib; touch /driver/x 2>/dev/null || echo " ro"; id -G; stat -c %a:%t:%T:%u /dev/gpu0'),
    ).toBe('all yes a\ndriver ro\n0 777\n660:1:5:1000');
    expect((await containerStatus(daemon, id)).user?.linux?.supplemental_groups).toEqual(['0', '777']);
    expect(readFileSync(marker, 'utf8')).toBe('gpu0\n');
    await expect(made.create({ CDI_devices: [{ name: `${kind}=7` }] })).rejects.toMatchObject({
      code: grpc.INVALID_ARGUMENT,
      details: expect.stringContaining(`config.CDI_devices[0].name: "${kind}=7" is not described by any CDI file`),
    });
  });

  test('a network device of CDI 1.1 is refused by a handler that would pass over it', async () => {
    writeFileSync(
      join(files, 'cdi/nic.json'),
      JSON.stringify({
        cdiVersion: '1.1.0',
        kind: 'vendor.com/nic',
        devices: [{ name: 'a', containerEdits: { netDevices: [{ hostInterfaceName: 'lo', name: 'net1' }] } }],
      }),
    );
    await expect(made.create({ CDI_devices: [{ name: 'vendor.com/nic=a' }] })).rejects.toMatchObject({
      code: grpc.INVALID_ARGUMENT,
      details: expect.stringContaining('config.CDI_devices: network devices, such as "lo", are not supported by the runtime handler'),
    });
  });

  test('hooks run for the containers that they are meant for, and a bad file is told', async () => {
    writeFileSync(join(files, 'mark'), `#!/bin/sh\necho "$2" >>"${files}/$1"\n`);
    chmodSync(join(files, 'mark'), 0o755);
    const hook = (dir: string, name: string, word: string, when: object, stages: readonly string[]) =>
      writeFileSync(
        join(files, dir, name),
        JSON.stringify({ version: '1.0.0', hook: { path: join(files, 'mark'), args: ['mark', 'hooks-ran', word] }, when, stages }),
      );
    hook('hooks', '10-traced.json', 'replaced', { always: true }, ['poststop']);
    hook('hooks-etc', '10-traced.json', 'traced', { annotations: { '^example\\.com/traced$': '^yes$' } }, ['createRuntime', 'poststop']);
    hook('hooks', '20-never.json', 'never', { commands: ['^never$'] }, ['createRuntime']);
    writeFileSync(join(files, 'hooks/30-bad.json'), '{"version": "0.9"}');
    try {
      const id = await made.start({ command: ['sleep', '1000'] });
      expect(readFileSync(join(files, 'hooks-ran'), 'utf8')).toBe('traced\n');
      await daemon.cri.RemoveContainer({ container_id: id });
      expect(readFileSync(join(files, 'hooks-ran'), 'utf8')).toBe('traced\ntraced\n');
      expect(daemon.log()).toMatch(/30-bad\.json.*version: .*Left out OCI hook file|Left out OCI hook file.*30-bad\.json/);
    } finally {
      for (const name of ['hooks/10-traced.json', 'hooks-etc/10-traced.json', 'hooks/20-never.json', 'hooks/30-bad.json']) rmSync(join(files, name));
    }
  });
});
