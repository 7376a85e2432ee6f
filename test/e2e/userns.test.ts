import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as grpc } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { type ContainerConfig, type Init, type LinuxContainerSecurityContext, NamespaceMode, type UserNamespace } from '../../proto/cri.ts';
import { removePod, shell } from '../support/calls.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX, NGINX, PAUSE } from '../support/images.ts';
import { ensureImage, idMapping, makeContainer, makePod, readLog, runPod, startContainer, startPod } from '../support/pod.ts';
import { endEmpty, lasting } from '../support/remains.ts';
import { findTool } from '../support/tool.ts';
import { until } from '../support/wait.ts';

const FROM = 3 * 65_536;

/** Debian 12's runc does not know idmapped mounts; test/run builds one that does. */
const programs = [
  ['crun', findTool('crun')],
  ['a runc that can', findTool('runc-new')],
] as const;

const found = programs.filter(([, program]) => program !== undefined);
if (found.length < programs.length) console.warn('SKIPPED: user namespaces with a runc that can: run test/run once, which builds it');

describe.each(found)('in a user namespace by %s', (_name, program) => {
  let daemon: Daemon;
  let cdi: string;

  beforeAll(async () => {
    cdi = mkdtempSync('/tmp/cdi-');
    const device = { name: 'a', containerEdits: { additionalGids: [70_000] } };
    writeFileSync(join(cdi, 'gpu.json'), JSON.stringify({ cdiVersion: '0.7.0', kind: 'vendor.com/gpu', devices: [device] }));
    const runtime = { default_runtime: 'able', cdi_spec_dirs: cdi };
    daemon = await startDaemon({
      handler: 'crun',
      registry: inject('registry'),
      config: { runtime, 'runtime.runtimes.able': { runtime_path: program ?? '' } },
    });
    // crun 1.8 does not tell what it can do: it is tried after the start
    await until('the handlers to be known', async () =>
      (await daemon.cri.Status({})).runtime_handlers.every(({ name, features }) => features?.user_namespaces === (name !== 'runc')),
    );
  });
  afterAll(async () => {
    try {
      await endEmpty(daemon);
    } finally {
      rmSync(cdi, { recursive: true });
    }
  });

  test('Status says which handler can do it', async () => {
    const { runtime_handlers, features } = await daemon.cri.Status({});
    const can = Object.fromEntries(runtime_handlers.map(({ name, features: of }) => [name, of?.user_namespaces]));
    expect(can).toMatchObject({ '': true, able: true, runc: false });
    expect(features).toMatchObject({ user_namespaces_host_network: true, mount_options: true, supplemental_groups_policy: true });
  });

  test(
    'a pod is root inside and nobody outside, and its files are those of the image',
    proves(
      'NamespaceOption.userns_options',
      'UserNamespace.mode',
      'UserNamespace.uids',
      'UserNamespace.gids',
      'IDMapping.host_id',
      'IDMapping.container_id',
      'IDMapping.length',
      'Mount.uidMappings',
      'Mount.gidMappings',
    ),
    async () => {
      const { podId, pod, containerId } = await startPod(daemon, { usersFrom: FROM });
      expect(await shell(daemon, containerId, 'cat /proc/self/uid_map /proc/self/gid_map | tr -s " "')).toBe(` 0 ${FROM} 65536\n 0 ${FROM} 65536`.trim());
      expect(await shell(daemon, containerId, 'id -u; stat -c %u:%g /bin /bin/busybox /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm /')).toBe(
        ['0', ...Array.from({ length: 7 }, () => '0:0')].join('\n'),
      );
      expect(
        await shell(
          daemon,
          containerId,
          'cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo " mine" >/dev/termination-log; touch /new /dev/shm/x; ls /new',
        ),
      ).toBe('a token/new');
      // what it writes belongs to its own user outside: through an idmapped mount to the volume's
      const logs = join(pod.directory, 'containers/main');
      const [log = ''] = readdirSync(logs);
      expect(readFileSync(join(logs, log), 'utf8')).toBe(' mine\n');
      const { status } = await daemon.cri.ContainerStatus({ container_id: containerId, verbose: true });
      expect(status?.user?.linux).toMatchObject({ uid: '0', gid: '0' });
      const { info } = await daemon.cri.ContainerStatus({ container_id: containerId, verbose: true });
      const { pid } = JSON.parse(info.info ?? '{}') as { pid: number };
      expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(new RegExp(`^Uid:\\s+${FROM}\\s`, 'm'));
      expect(statSync(`/proc/${pid}/ns/user`).ino).not.toBe(statSync('/proc/self/ns/user').ino);
      expect(statSync(join(daemon.directory, 'ns/userns', `berth-${podId}`)).ino).toBe(statSync(`/proc/${pid}/ns/user`).ino);
      await removePod(daemon, podId);
    },
  );

  test('its network is its own to change, and its devices, streams and groups work', async () => {
    const pod = makePod(daemon, { usersFrom: FROM, sysctls: { 'net.ipv4.ping_group_range': '0 5', 'net.ipv4.ip_unprivileged_port_start': '80' } });
    const podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
    const config = makeContainer(pod);
    const security = {
      ...config.linux?.security_context,
      capabilities: { add_capabilities: ['NET_ADMIN'] },
      run_as_user: { value: '1000' },
      run_as_group: { value: '1001' },
    };
    const { container_id } = await daemon.cri.CreateContainer({
      pod_sandbox_id: podId,
      config: {
        ...config,
        command: ['sh', '-c', 'echo out >/dev/stdout; echo err >/dev/stderr; sleep 1000'],
        devices: [{ host_path: '/dev/zero', container_path: '/dev/mine', permissions: 'rw' }],
        linux: { ...config.linux, security_context: { ...security, supplemental_groups: ['2000'] } },
      },
      sandbox_config: pod.config,
    });
    await daemon.cri.StartContainer({ container_id });
    expect(
      await shell(daemon, container_id, 'id -u; id -g; id -G; whoami; head -c 2 /dev/mine | wc -c; cat /proc/sys/net/ipv4/ping_group_range | tr "\\t" " "'),
    ).toBe(['1000', '1001', '1001 2000', '1000', '2', '0 5'].join('\n'));
    expect(await shell(daemon, container_id, 'hostname >/dev/stdout')).toBe(pod.config.hostname);
    const log = join(pod.logDirectory, 'main/0.log');
    await until('both lines of the log', () => readLog(log).length >= 2);
    expect(
      readLog(log)
        .map(({ stream, text }) => `${stream} ${text}`)
        .sort(),
    ).toEqual(['stderr err', 'stdout out']);
    const { stats } = await daemon.cri.ContainerStats({ container_id });
    expect(Number(stats?.memory?.working_set_bytes?.value)).toBeGreaterThan(0);
    await removePod(daemon, podId);
  });

  test('processes of a pod can be shared, and survive a restart of the daemon', async () => {
    const { podId, pod, containerId } = await startPod(daemon, { usersFrom: FROM, shareProcessNamespace: true });
    expect(await shell(daemon, containerId, 'cat /proc/1/comm')).toMatch(/pause/);
    await daemon.restart();
    const { items } = await daemon.cri.ListPodSandbox({ filter: { id: podId } });
    expect(items).toMatchObject([{ id: podId, state: 0 }]);
    const second = await startContainer(daemon, pod, podId, { name: 'second' });
    expect(await shell(daemon, second.containerId, 'cat /proc/self/uid_map | tr -s " "')).toBe(`0 ${FROM} 65536`);
    await removePod(daemon, podId);
  });

  test("a pod on the node's network can have one", async () => {
    const { podId, containerId } = await startPod(daemon, { usersFrom: FROM, hostNetwork: true });
    expect(await shell(daemon, containerId, 'id -u; tr -s " " </proc/self/uid_map; ls /sys/class/net | grep -c lo')).toBe(`0\n 0 ${FROM} 65536\n1`);
    await removePod(daemon, podId);
  });

  test('a privileged container has all devices and capabilities, in its user namespace', async () => {
    const pod = makePod(daemon, { usersFrom: FROM, privileged: true });
    const podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
    const config = makeContainer(pod);
    const { container_id } = await daemon.cri.CreateContainer({
      pod_sandbox_id: podId,
      config: { ...config, linux: { ...config.linux, security_context: { ...config.linux?.security_context, privileged: true } } },
      sandbox_config: pod.config,
    });
    await daemon.cri.StartContainer({ container_id });
    expect(
      await shell(
        daemon,
        container_id,
        'ls /dev/kmsg; mkdir -p /mnt; mount -t tmpfs none /mnt && echo mounted; echo 1 2>/dev/null >/proc/sys/kernel/printk || echo not the host',
      ),
    ).toBe('/dev/kmsg\nmounted\nnot the host');
    await removePod(daemon, podId);
  });

  test('an image volume shows the owners that the image has', async () => {
    await ensureImage(daemon, NGINX);
    const pod = makePod(daemon, { usersFrom: FROM });
    const podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
    const config = makeContainer(pod);
    const users = pod.config.linux?.security_context?.namespace_options?.userns_options;
    const mappings = { uidMappings: users?.uids ?? [], gidMappings: users?.gids ?? [] };
    const page = { image: { image: NGINX }, container_path: '/page', image_sub_path: 'usr/share/nginx/html', readonly: true, ...mappings };
    const { container_id } = await daemon.cri.CreateContainer({
      pod_sandbox_id: podId,
      config: { ...config, mounts: [...(config.mounts ?? []), page] },
      sandbox_config: pod.config,
    });
    await daemon.cri.StartContainer({ container_id });
    expect(await shell(daemon, container_id, 'grep -o "Welcome to nginx!" /page/index.html | head -n 1; stat -c %u:%g /page /page/index.html')).toBe(
      'Welcome to nginx!\n0:0\n0:0',
    );
    await removePod(daemon, podId);
  });

  test('an idmapped volume keeps its owners', async () => {
    const volume = join(daemon.directory, 'volume');
    mkdirSync(volume);
    writeFileSync(join(volume, 'file'), 'content', { mode: 0o600 });
    const pod = makePod(daemon, { usersFrom: FROM });
    const podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
    const config = makeContainer(pod);
    const mappings = { uidMappings: [idMapping(FROM)], gidMappings: [idMapping(FROM)] };
    const { container_id } = await daemon.cri.CreateContainer({
      pod_sandbox_id: podId,
      config: { ...config, mounts: [...(config.mounts ?? []), { host_path: volume, container_path: '/volume', ...mappings }] },
      sandbox_config: pod.config,
    });
    await daemon.cri.StartContainer({ container_id });
    expect(await shell(daemon, container_id, 'cat /volume/file; stat -c " %u" /volume/file; touch /volume/new')).toBe('content 0');
    expect(statSync(join(volume, 'new'))).toMatchObject({ uid: 0, gid: 0 });
    await removePod(daemon, podId);
  });

  test('is refused by a handler that cannot do it, and with mappings that are none', async () => {
    const pod = makePod(daemon, { usersFrom: FROM });
    await expect(daemon.cri.RunPodSandbox({ config: pod.config, runtime_handler: 'runc' })).rejects.toMatchObject({
      code: grpc.FAILED_PRECONDITION,
      details: expect.stringContaining('userns_options.mode: runtime handler "runc" does not support user namespaces'),
    });
    const options = pod.config.linux?.security_context?.namespace_options;
    const one = [idMapping(FROM)];
    const mapped = (users: Init<UserNamespace>) => {
      const security_context = { ...pod.config.linux?.security_context, namespace_options: { ...options, userns_options: users } };
      return daemon.cri.RunPodSandbox({ config: { ...pod.config, linux: { ...pod.config.linux, security_context } } });
    };
    const refused = (users: Init<UserNamespace>, why: string) =>
      expect(mapped({ mode: NamespaceMode.POD, uids: one, gids: one, ...users })).rejects.toMatchObject({
        code: grpc.INVALID_ARGUMENT,
        details: expect.stringContaining(`config.linux.security_context.namespace_options.userns_options.${why}`),
      });
    await refused({ uids: [...one, idMapping(2 * FROM)] }, 'uids: 2 mappings, where exactly one is possible');
    await refused({ gids: [] }, 'gids: 0 mappings, where exactly one is possible');
    await refused({ uids: [{ host_id: FROM, container_id: 1, length: 65_536 }] }, 'uids[0].container_id: 1 leaves id 0 without a mapping');
    await refused({ gids: [{ host_id: FROM, container_id: 0, length: 0 }] }, 'gids[0].length: 0 maps nothing');
    await refused({ mode: NamespaceMode.NODE }, 'mode: "NODE" stands beside mappings');
    await refused({ mode: NamespaceMode.CONTAINER }, 'mode');
    expect((await daemon.cri.ListPodSandbox()).items).toEqual([]);
  });

  test('a container has its pod’s user namespace and no user from outside of it', async () => {
    const pod = makePod(daemon, { usersFrom: FROM });
    const podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
    const refused = async (security: Init<LinuxContainerSecurityContext>, why: string, change: Init<ContainerConfig> = {}) => {
      const config = { ...makeContainer(pod, { security }), ...change };
      await expect(daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config })).rejects.toMatchObject({
        code: grpc.INVALID_ARGUMENT,
        details: expect.stringContaining(why),
      });
    };
    await refused({ run_as_user: { value: '70000' } }, "run_as_user: 70000 is not mapped in the pod's user namespace");
    await refused({ supplemental_groups: ['70000'] }, "group 70000 is not mapped in the pod's user namespace");
    await refused({}, "config.CDI_devices: group 70000 of a device is not mapped in the pod's user namespace", { CDI_devices: [{ name: 'vendor.com/gpu=a' }] });
    const options = pod.config.linux?.security_context?.namespace_options;
    const other = { mode: NamespaceMode.POD, uids: [idMapping(2 * FROM)], gids: [idMapping(2 * FROM)] };
    await refused({ namespace_options: { ...options, userns_options: other } }, 'userns_options: has other mappings than the pod');
    await refused({ namespace_options: { ...options, userns_options: { mode: NamespaceMode.NODE } } }, 'userns_options.mode: "NODE" is not the pod\'s');
    await removePod(daemon, podId);
  });
});

test('a pause image runs in a user namespace too, and so does a pod without any pause', async () => {
  await using daemon = await startDaemon({
    handler: 'crun',
    registry: inject('registry'),
    config: { runtime: { drop_infra_ctr: true }, image: { pause_image: PAUSE } },
  });
  const id = async (container_id: string) => {
    const { stdout } = await daemon.cri.ExecSync({ container_id, cmd: ['sh', '-c', 'cat /proc/1/comm; tr -s " " </proc/self/uid_map'], timeout: '20' });
    return stdout.toString();
  };
  const shared = await startPod(daemon, { usersFrom: FROM, shareProcessNamespace: true });
  expect(await id(shared.containerId)).toBe(`pause\n 0 ${FROM} 65536\n`);
  const alone = await startPod(daemon, { usersFrom: FROM });
  expect(await id(alone.containerId)).toBe(`sleep\n 0 ${FROM} 65536\n`);
  for (const { podId } of [shared, alone]) {
    await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
    await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
  }
  expect(await lasting(daemon)).toEqual([]);
});
