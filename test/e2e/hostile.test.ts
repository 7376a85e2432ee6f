import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ContainerConfig, type Init, type LinuxContainerSecurityContext, NamespaceMode } from '../../proto/cri.ts';
import type { TestEntry } from '../fixtures/storage/tar.ts';
import { said } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { loadOwnImage } from '../support/own-image.ts';
import { makeContainer, makePod, type Pod, runPod } from '../support/pod.ts';
import { processesOf } from '../support/processes.ts';
import { endEmpty, remains } from '../support/remains.ts';
import { until } from '../support/wait.ts';

/**
 * What images, requests and races have done to container runtimes. Where a case has a CVE of another runtime, its number
 * is there; sysctls (CVE-2022-0811) and capabilities (CVE-2022-27652) are in isolation.test.ts, annotations (CVE-2024-3154) in node-config.test.ts.
 */
describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  let pod: Pod;
  let podId: string;
  /** A directory of the host, to which the images' links lead. */
  let outside: string;
  let before: string[];
  let count = 0;

  beforeAll(async () => {
    daemon = await startDaemon({ handler });
    pod = makePod(daemon);
    podId = await runPod(daemon, pod);
    outside = join(daemon.directory, 'outside');
    mkdirSync(outside);
    for (const name of ['passwd', 'group']) writeFileSync(join(outside, name), `precious ${name}\n`);
    before = await remains(daemon);
  });
  afterAll(() => endEmpty(daemon, podId));

  async function imageOf(entries: readonly TestEntry[], config: Record<string, unknown> = {}): Promise<string> {
    count += 1;
    const name = `example.com/${handler}/hostile:${count}`;
    await loadOwnImage(daemon, { name, entries, config: { Cmd: ['/bin/sleep', '10000'], ...config } });
    return name;
  }

  type Change = Init<ContainerConfig>;
  async function create(image: string, change: Change = {}, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    count += 1;
    const plain = makeContainer(pod, { name: `c${count}`, command: [], image, security });
    const config = { ...plain, ...change, mounts: [...(plain.mounts ?? []), ...(change.mounts ?? [])] };
    const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config });
    return container_id;
  }

  async function start(image: string, change: Change = {}, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    const container_id = await create(image, change, security);
    await daemon.cri.StartContainer({ container_id });
    return container_id;
  }

  const nothingOutside = (): void => {
    expect(readdirSync(outside).sort()).toEqual(['group', 'passwd']);
    for (const name of ['passwd', 'group']) expect(readFileSync(join(outside, name), 'utf8')).toBe(`precious ${name}\n`);
  };

  test.each([
    ['absolute links', (path: string) => path],
    ['links that climb', (path: string) => `../../../../../../../../..${path}`],
  ])('%s of an image lead nowhere outside of it, whatever is made there (CVE-2024-5154)', async (_what, link) => {
    const image = await imageOf(
      [
        { name: 'etc/' },
        ...['passwd', 'group', 'mtab', 'hosts', 'hostname', 'resolv.conf'].map((name) => ({ name: `etc/${name}`, type: '2', link: link(join(outside, name)) })),
        { name: 'work', type: '2', link: link(outside) },
        { name: 'volume', type: '2', link: link(join(outside, 'volume')) },
        { name: 'mounted', type: '2', link: link(outside) },
      ],
      { Volumes: { '/volume/deep': {} } },
    );
    const source = join(daemon.directory, 'source');
    mkdirSync(source, { recursive: true });
    const mounts = [{ host_path: source, container_path: '/mounted/here' }];
    const id = await start(image, { working_dir: '/work/made', mounts }, { run_as_user: { value: '4321' }, run_as_group: { value: '4321' } });
    expect(await said(daemon, id, 'pwd; id -u; cat /etc/hostname')).toBe(`${outside}/made\n4321\n${pod.config.hostname}`);
    nothingOutside();
    await daemon.cri.RemoveContainer({ container_id: id });
    nothingOutside();
  });

  test('an /etc that is a link is the directory of the image that it leads to', async () => {
    const etc = outside.slice(1);
    const image = await imageOf([
      { name: 'etc', type: '2', link: outside },
      { name: `${etc}/` },
      { name: `${etc}/passwd`, content: 'root:x:0:0:root:/root:/bin/sh\n' },
    ]);
    const id = await start(image, {}, { run_as_user: { value: '4321' } });
    expect(await said(daemon, id, 'cat /etc/passwd')).toContain('4321:x:4321:0:');
    nothingOutside();
    await daemon.cri.RemoveContainer({ container_id: id });
  });

  test('a path inside of an image volume is looked up in the image alone', async () => {
    const page = await imageOf([
      { name: 'out', type: '2', link: outside },
      { name: 'in', type: '2', link: '/kept' },
      { name: 'kept/' },
      { name: 'kept/file', content: 'kept' },
    ]);
    const volume = (image_sub_path: string) => ({ mounts: [{ image: { image: page }, container_path: '/page', image_sub_path, readonly: true }] });
    expect(await said(daemon, await start(page, volume('in')), 'cat /page/file')).toBe('kept');
    await expect(create(page, volume('out'))).rejects.toThrow('image_sub_path: "out" is not in the image');
    await expect(create(page, volume('out/passwd'))).rejects.toThrow('image_sub_path: "out/passwd" is not in the image');
  });

  test('no line of HOME gets into /etc/passwd, whoever sets it (CVE-2022-4318)', async () => {
    const HOME = '/\nroot2:x:0:0::/:/bin/sh';
    const image = await imageOf([{ name: 'etc/' }, { name: 'etc/passwd', content: 'root:x:0:0:root:/root:/bin/sh' }], { Env: [`HOME=${HOME}`] });
    const id = await start(image, {}, { run_as_user: { value: '4321' } });
    expect(await said(daemon, id, 'cat /etc/passwd')).toBe('root:x:0:0:root:/root:/bin/sh\n4321:x:4321:0:container user:/:/sbin/nologin');
    await expect(create(image, { envs: [{ key: 'HOME', value: Buffer.from(HOME) }] })).rejects.toThrow('config.envs[0].value');
  });

  test.each([
    [
      'too large for the memory (CVE-2025-4437)',
      { name: 'etc/passwd', content: Buffer.alloc(2 * 1024 ** 2, 'x') },
      '/etc/passwd of the image has 2097152 bytes',
    ],
    ['a fifo that nobody writes to', { name: 'etc/group', type: '6' }, '/etc/group of the image is no file'],
    ['a directory', { name: 'etc/passwd/' }, '/etc/passwd of the image is no file'],
  ])('a passwd or group file that is %s is refused by name, and leaves nothing', async (_what, entry, why) => {
    await daemon.cri.ListContainers().then(({ containers }) => Promise.all(containers.map(({ id }) => daemon.cri.RemoveContainer({ container_id: id }))));
    const image = await imageOf([{ name: 'etc/' }, entry]);
    await expect(create(image)).rejects.toMatchObject({ code: status.INVALID_ARGUMENT, details: expect.stringContaining(why) });
    await until('the undo', async () => JSON.stringify(await remains(daemon)) === JSON.stringify(before));
  });

  test('a working directory at a descriptor of the runtime is none of the node’s (CVE-2024-21626)', async () => {
    const image = await imageOf([]);
    const identity = ({ dev, ino }: { readonly dev: number; readonly ino: number }): string => `${dev}:${ino}`;
    for (let fd = 3; fd < 12; fd += 1) {
      const id = await create(image, { working_dir: `/proc/self/fd/${fd}` }).catch((err: unknown) => err);
      if (typeof id !== 'string') continue; // the runtime has refused it
      const started = await daemon.cri.StartContainer({ container_id: id }).then(
        () => true,
        () => false,
      );
      if (started) expect(await said(daemon, id, 'stat -c %d:%i /proc/1/cwd/../../../../../../../..')).not.toBe(identity(statSync('/')));
      await daemon.cri.RemoveContainer({ container_id: id });
    }
  });

  test('a debug container whose target ends while it is made does not end up in the PID namespace of whoever has the pid next', async () => {
    const image = await imageOf([]);
    const target = await start(image);
    const { init } = processesOf(daemon, target);
    const options = { ...pod.config.linux?.security_context?.namespace_options, pid: NamespaceMode.TARGET, target_id: target };
    const calls = daemon.faults.calls(handler, 'create');
    daemon.faults.set(handler, 'create', 'hold');
    const creation = create(image, {}, { namespace_options: options }).catch((err: unknown) => err);
    await until('the runtime to be asked', () => daemon.faults.calls(handler, 'create') > calls);
    process.kill(init, 'SIGKILL');
    await until('the end of the target', () => !existsSync(`/proc/${init}`));
    const stranger = await startWithPid(init);
    try {
      daemon.faults.clear();
      expect(await creation).toMatchObject({ code: status.FAILED_PRECONDITION, details: expect.stringContaining(`container ${target} has ended`) });
    } finally {
      stranger.kill('SIGKILL');
    }
    await daemon.cri.RemoveContainer({ container_id: target });
  });
});

/** Starts a process of the node with this pid, which is free: the kernel gives them in order, from the last one on. */
async function startWithPid(pid: number) {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(pid - 1));
    const child = spawn('sleep', ['1000'], { stdio: 'ignore' });
    if (child.pid === pid) return child;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  }
  throw new Error(`no process got the pid ${pid}`);
}
