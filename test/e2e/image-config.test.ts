import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ContainerState, Signal } from '../../proto/cri.ts';
import { said } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { loadOwnImage } from '../support/own-image.ts';
import { type ContainerOptions, makeContainer, makePod, type Pod, readLog, runPod } from '../support/pod.ts';
import { processesOf } from '../support/processes.ts';
import { endEmpty } from '../support/remains.ts';
import { until } from '../support/wait.ts';

const ETC = [
  { name: 'etc/' },
  { name: 'etc/passwd', content: 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n' },
  { name: 'etc/group', content: 'root:x:0:\napp:x:1001:\naudio:x:29:app\nwheel:x:1003:\n' },
];

/** What an image says counts where the request says nothing: with a daemon whose images are made for it. */
describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  let pod: Pod;
  let podId: string;
  let count = 0;

  beforeAll(async () => {
    daemon = await startDaemon({ handler, config: { runtime: { default_env: 'LAYER=default, DEFAULT=kept' } } });
    pod = makePod(daemon);
    podId = await runPod(daemon, pod);
  });
  afterAll(() => endEmpty(daemon, podId));

  async function imageOf(config: Record<string, unknown>, entries: Parameters<typeof loadOwnImage>[1]['entries'] = ETC): Promise<string> {
    count += 1;
    const name = `example.com/${handler}/made:${count}`;
    await loadOwnImage(daemon, { name, entries, config });
    return name;
  }

  async function create(image: string, options: ContainerOptions = {}): Promise<string> {
    count += 1;
    const plain = makeContainer(pod, { name: `c${count}`, command: [], image, ...options });
    const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config: plain, sandbox_config: pod.config });
    return container_id;
  }

  async function start(image: string, options: ContainerOptions = {}): Promise<string> {
    const container_id = await create(image, options);
    await daemon.cri.StartContainer({ container_id });
    return container_id;
  }

  async function logOf(image: string, options: ContainerOptions = {}): Promise<string> {
    const container_id = await start(image, options);
    const status = await until('the end of the container', async () => {
      const { status: found } = await daemon.cri.ContainerStatus({ container_id });
      return found?.state === ContainerState.CONTAINER_EXITED && found;
    });
    return readLog(status.log_path)
      .map(({ text }) => text)
      .join('\n');
  }

  test(
    'command replaces entrypoint and cmd, args alone replace cmd, and nothing to run is an error',
    proves('ContainerConfig.command', 'ContainerConfig.args'),
    async () => {
      const image = await imageOf({ Entrypoint: ['/bin/echo', 'entrypoint'], Cmd: ['cmd'] });
      expect(await logOf(image)).toBe('entrypoint cmd');
      expect(await logOf(image, { args: ['args'] })).toBe('entrypoint args');
      expect(await logOf(image, { command: ['/bin/echo', 'command'] })).toBe('command');
      expect(await logOf(image, { command: ['/bin/echo', 'command'], args: ['args'] })).toBe('command args');
      expect(await logOf(await imageOf({ Cmd: ['/bin/echo', 'cmd alone'] }))).toBe('cmd alone');
      await expect(create(await imageOf({}))).rejects.toThrow('config.command: is empty, and the image names no command either');
    },
  );

  test(
    "the image's environment is above the node's and below the request's, and its working directory is used",
    proves('ContainerConfig.envs', 'ContainerConfig.working_dir'),
    async () => {
      const image = await imageOf({ Env: ['LAYER=image', 'IMAGE=kept', 'TERM=vt100', 'ALONE'], WorkingDir: '/srv/made', Cmd: ['/bin/sh', '-c', 'env; pwd'] });
      const said = (await logOf(image)).split('\n');
      for (const line of ['LAYER=image', 'IMAGE=kept', 'DEFAULT=kept', 'HOME=/root', `HOSTNAME=${pod.config.hostname}`, '/srv/made'])
        expect(said).toContain(line);
      expect(said.filter((line) => line.startsWith('ALONE'))).toEqual([]);
    },
  );

  test.each([
    ['app', { uid: '1000', gid: '1001', supplemental_groups: ['1001', '29'] }, '/home/app'],
    ['1000', { uid: '1000', gid: '1001', supplemental_groups: ['1001', '29'] }, '/home/app'],
    ['app:wheel', { uid: '1000', gid: '1003', supplemental_groups: ['1003', '29'] }, '/home/app'],
    ['1000:1003', { uid: '1000', gid: '1003', supplemental_groups: ['1003', '29'] }, '/home/app'],
    ['7777', { uid: '7777', gid: '0', supplemental_groups: ['0'] }, '/'],
    ['7777:8888', { uid: '7777', gid: '8888', supplemental_groups: ['8888'] }, '/'],
    ['', { uid: '0', gid: '0', supplemental_groups: ['0'] }, '/root'],
  ])('the image’s user %j is found, with its groups and home, and told in the status', async (user, linux, home) => {
    const image = await imageOf({ User: user, Cmd: ['/bin/sleep', '1000'] });
    const id = await start(image, { security: { run_as_user: null } });
    const { status } = await daemon.cri.ContainerStatus({ container_id: id });
    expect(status?.user?.linux).toEqual(linux);
    const proc = readFileSync(`/proc/${processesOf(daemon, id).init}/status`, 'utf8');
    expect(proc).toMatch(new RegExp(`^Uid:\\t${linux.uid}\\t${linux.uid}\\t`, 'm'));
    expect(proc).toMatch(new RegExp(`^Gid:\\t${linux.gid}\\t${linux.gid}\\t`, 'm'));
    // the primary group is among the others, so that giving it up takes nothing away (CVE-2022-2995)
    expect(/^Groups:\t(.*?) *$/m.exec(proc)?.[1]?.split(' ').sort()).toEqual([...linux.supplemental_groups].sort());
    const { stdout } = await daemon.cri.ExecSync({ container_id: id, cmd: ['sh', '-c', 'echo $HOME; id -un; id -gn'], timeout: '20' });
    const names = { '1000': 'app', '7777': '7777', '0': 'root', '1001': 'app', '1003': 'wheel', '8888': '8888' };
    expect(String(stdout)).toBe(`${home}\n${names[linux.uid as keyof typeof names]}\n${names[linux.gid as keyof typeof names]}\n`);
  });

  test('a user that the image names and does not have is an error that says whose', async () => {
    await expect(create(await imageOf({ User: 'nobody-knows', Cmd: ['/bin/sh'] }), { security: { run_as_user: null } })).rejects.toThrow(
      `user of the image: "nobody-knows" is not in the image's /etc/passwd`,
    );
    await expect(create(await imageOf({ User: '0:nobodies', Cmd: ['/bin/sh'] }), { security: { run_as_user: null } })).rejects.toThrow(
      'group of the image: "nobodies"',
    );
  });

  test.each([
    ['SIGUSR1', Signal.SIGNAL_SIGUSR1, 'USR1'],
    ['12', Signal.SIGNAL_SIGUSR2, 'USR2'],
    ['RTMIN+3', Signal.SIGNAL_SIGRTMINPLUS3, '37'],
    ['', Signal.SIGNAL_SIGTERM, 'TERM'],
    ['nonsense', Signal.SIGNAL_SIGTERM, 'TERM'],
  ])('the image’s StopSignal %j stops the container, and is in the status', async (StopSignal, signal, name) => {
    const image = await imageOf({ StopSignal, Cmd: ['/bin/sh', '-c', `trap "exit 5" ${name}; echo ready; while :; do sleep 0.1; done`] });
    const id = await start(image);
    const { status } = await daemon.cri.ContainerStatus({ container_id: id });
    expect(status?.stop_signal).toBe(signal);
    await until('the trap', () => readLog(status?.log_path ?? '').length > 0);
    await daemon.cri.StopContainer({ container_id: id, timeout: '30' });
    expect((await daemon.cri.ContainerStatus({ container_id: id })).status?.exit_code).toBe(5);
  });

  test('a volume of the image keeps its content, belongs to one container, and stays writable under a read-only root', async () => {
    const entries = [
      ...ETC,
      { name: 'srv/' },
      { name: 'srv/real/' },
      { name: 'srv/real/file', content: 'content' },
      { name: 'data', type: '2', link: '/srv/real' },
    ];
    const image = await imageOf({ Volumes: { '/data': {}, '/new/one': {} }, Cmd: ['/bin/sleep', '1000'] }, entries);
    const [one, other] = [await start(image, { security: { readonly_rootfs: true } }), await start(image)];
    expect(await said(daemon, one, 'cat /data/file; touch /data/mine /new/one/mine && echo " written"; touch /x || true')).toMatch(
      /^content written\n.*Read-only/,
    );
    expect(await said(daemon, other, 'ls /data /new/one')).toBe('/data:\nfile\n\n/new/one:');
  });
});
