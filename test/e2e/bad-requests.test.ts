import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import type { ContainerConfig, Init, PodSandboxConfig } from '../../proto/cri.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { BUSYBOX } from '../support/images.ts';
import { makeContainer, makePod, type Pod, runPod, startPod } from '../support/pod.ts';
import { lasting, remains } from '../support/remains.ts';

const LONG = 'x'.repeat(10_000);
const NO_ID = '0'.repeat(64);

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon({ handler: 'crun', registry: inject('registry'), images: [BUSYBOX] });
});
afterAll(() => daemon[Symbol.asyncDispose]());

describe('RunPodSandbox() refuses, names the field, and leaves nothing', () => {
  afterEach(async () => {
    expect((await daemon.cri.ListPodSandbox()).items).toEqual([]);
    expect(await lasting(daemon)).toEqual([]);
  });

  type Change = (config: Pod['config']) => Init<PodSandboxConfig> | undefined;
  const metadata =
    (changed: object): Change =>
    (config) => ({ ...config, metadata: { ...config.metadata, ...changed } });
  const security =
    (changed: object): Change =>
    (config) => ({
      ...config,
      linux: { ...config.linux, security_context: { ...config.linux?.security_context, ...changed } },
    });
  const linux =
    (changed: object): Change =>
    (config) => ({ ...config, linux: { ...config.linux, ...changed } });

  test.each<{ what: string; change: Change; says: RegExp }>([
    { what: 'no config', change: () => undefined, says: /config/ },
    { what: 'no metadata', change: ({ metadata: _, ...rest }) => rest, says: /metadata/ },
    { what: 'an empty name', change: metadata({ name: '' }), says: /metadata\.name/ },
    { what: 'an empty namespace', change: metadata({ namespace: '' }), says: /metadata\.namespace/ },
    { what: 'an empty uid', change: metadata({ uid: '' }), says: /metadata\.uid/ },
    { what: 'a name with slashes', change: metadata({ name: '../../etc/passwd' }), says: /metadata\.name.*slash/ },
    { what: 'a name of 10,000 characters', change: metadata({ name: LONG }), says: /metadata\.name/ },
    { what: 'a name with a line end', change: metadata({ name: 'a\nb' }), says: /metadata\.name/ },
    { what: 'a relative log directory', change: (config) => ({ ...config, log_directory: '../log' }), says: /log_directory/ },
    { what: 'a host name with a blank', change: (config) => ({ ...config, hostname: 'a b' }), says: /hostname/ },
    { what: 'a host name of 10,000 characters', change: (config) => ({ ...config, hostname: LONG }), says: /hostname/ },
    {
      what: 'a line end in resolv.conf',
      change: (config) => ({ ...config, dns_config: { servers: ['1.1.1.1\nnameserver 6.6.6.6'] } }),
      says: /dns_config\.servers/,
    },
    { what: 'a port that is none', change: (config) => ({ ...config, port_mappings: [{ container_port: 70_000, host_port: 80 }] }), says: /port_mappings/ },
    {
      what: 'an unknown protocol',
      change: (config) => ({ ...config, port_mappings: [{ protocol: 9 as never, container_port: 80, host_port: 8080 }] }),
      says: /port_mappings.*protocol/,
    },
    { what: 'an unknown network mode', change: security({ namespace_options: { network: 9 } }), says: /namespace_options\.network/ },
    { what: 'a sysctl of the node', change: linux({ sysctls: { 'vm.swappiness': '10' } }), says: /vm\.swappiness/ },
    { what: 'a sysctl that climbs out', change: linux({ sysctls: { 'net/../../kernel/core_pattern': 'x' } }), says: /sysctl/ },
    { what: 'a cgroup that climbs out', change: linux({ cgroup_parent: '/a/../../b' }), says: /cgroup_parent/ },
    { what: 'an unknown seccomp profile type', change: security({ seccomp: { profile_type: 9 } }), says: /seccomp/ },
    { what: 'Windows', change: (config) => ({ ...config, windows: {} }), says: /windows/ },
  ])('$what', async ({ change, says }) => {
    const config = change(makePod(daemon).config);
    await expect(daemon.cri.RunPodSandbox(config === undefined ? {} : { config })).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
      details: expect.stringMatching(says),
    });
  });

  test('an unknown handler, with the list of the known ones', async () => {
    await expect(daemon.cri.RunPodSandbox({ config: makePod(daemon).config, runtime_handler: LONG })).rejects.toThrow(/^(?=.*crun)(?=.*runc)/);
  });
});

describe('CreateContainer() refuses, names the field, and leaves nothing', () => {
  let pod: Pod;
  let podId: string;
  let before: string[];
  beforeAll(async () => {
    pod = makePod(daemon);
    podId = await runPod(daemon, pod);
    before = await remains(daemon);
  });
  afterEach(async () => {
    expect((await daemon.cri.ListContainers()).containers).toEqual([]);
    expect(await remains(daemon)).toEqual(before);
  });
  afterAll(async () => {
    await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
    await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
  });

  type Plain = ReturnType<typeof makeContainer>;
  type Change = (config: Plain) => Init<ContainerConfig> | undefined;
  const security =
    (changed: object): Change =>
    (config) => ({
      ...config,
      linux: { ...config.linux, security_context: { ...config.linux?.security_context, ...changed } },
    });
  const resources =
    (changed: object): Change =>
    (config) => ({ ...config, linux: { ...config.linux, resources: { ...config.linux?.resources, ...changed } } });
  const mount =
    (changed: object): Change =>
    (config) => ({ ...config, mounts: [...(config.mounts ?? []), changed] });

  test.each<{ what: string; change: Change; says: RegExp }>([
    { what: 'no config', change: () => undefined, says: /config/ },
    { what: 'no metadata', change: ({ metadata: _, ...rest }) => rest, says: /metadata/ },
    { what: 'a name with slashes', change: (config) => ({ ...config, metadata: { name: 'a/b', attempt: 0 } }), says: /metadata\.name/ },
    { what: 'a name of 10,000 characters', change: (config) => ({ ...config, metadata: { name: LONG, attempt: 0 } }), says: /metadata\.name/ },
    { what: 'no image', change: ({ image: _, ...rest }) => rest, says: /image/ },
    { what: 'an absolute log path', change: (config) => ({ ...config, log_path: '/etc/cron.d/evil' }), says: /log_path/ },
    { what: 'a log path that climbs out', change: (config) => ({ ...config, log_path: 'main/../../../../evil.log' }), says: /log_path/ },
    { what: 'a log path of 10,000 characters', change: (config) => ({ ...config, log_path: LONG }), says: /log_path/ },
    { what: 'a relative working directory', change: (config) => ({ ...config, working_dir: 'tmp' }), says: /working_dir/ },
    { what: 'a variable without a name', change: (config) => ({ ...config, envs: [{ key: '', value: Buffer.from('x') }] }), says: /envs/ },
    { what: 'a variable with = in its name', change: (config) => ({ ...config, envs: [{ key: 'A=B', value: Buffer.from('x') }] }), says: /envs/ },
    { what: 'a mount without a path', change: mount({ container_path: '', host_path: '/tmp' }), says: /mounts/ },
    { what: 'a mount with a relative path', change: mount({ container_path: 'data', host_path: '/tmp' }), says: /mounts/ },
    { what: 'a mount with an unknown propagation', change: mount({ container_path: '/data', host_path: '/tmp', propagation: 9 }), says: /propagation/ },
    { what: 'a negative memory limit', change: resources({ memory_limit_in_bytes: '-5' }), says: /memory_limit_in_bytes/ },
    { what: 'negative shares', change: resources({ cpu_shares: '-1' }), says: /cpu_shares/ },
    { what: 'an absurd period', change: resources({ cpu_period: '9223372036854775807' }), says: /cpu_period/ },
    { what: 'an oom_score_adj out of range', change: resources({ oom_score_adj: '5000' }), says: /oom_score_adj/ },
    { what: 'CPUs that are no list', change: resources({ cpuset_cpus: '0-x; rm -rf /' }), says: /cpuset_cpus/ },
    { what: 'an unknown capability', change: security({ capabilities: { add_capabilities: ['SYS_GOD'] } }), says: /SYS_GOD/ },
    { what: 'a negative user', change: security({ run_as_user: { value: '-1' } }), says: /run_as_user/ },
    { what: 'an unknown user name', change: security({ run_as_user: null, run_as_username: 'nosuchuser' }), says: /nosuchuser/ },
    { what: 'a group without a user', change: security({ run_as_user: null, run_as_group: { value: '5' } }), says: /run_as_group/ },
    { what: 'more privilege than the pod has', change: security({ privileged: true }), says: /privileged/ },
    { what: 'a relative masked path', change: security({ masked_paths: ['proc/kcore'] }), says: /masked_paths/ },
    {
      what: 'a seccomp profile that is not there',
      change: security({ seccomp: { profile_type: 2, localhost_ref: '/no/such/profile.json' } }),
      says: /no\/such\/profile\.json/,
    },
    { what: 'an unknown stop signal', change: (config) => ({ ...config, stop_signal: 4711 as never }), says: /stop_signal/ },
    {
      what: 'a device that is not there',
      change: (config) => ({ ...config, devices: [{ host_path: '/dev/nosuch', container_path: '/dev/x', permissions: 'rwm' }] }),
      says: /nosuch/,
    },
  ])('$what', async ({ change, says }) => {
    const config = change(makeContainer(pod));
    const request = { pod_sandbox_id: podId, sandbox_config: pod.config, ...(config === undefined ? {} : { config }) };
    await expect(daemon.cri.CreateContainer(request)).rejects.toMatchObject({ details: expect.stringMatching(says) });
  });

  test('a mount whose source is a loop of links', async () => {
    const loop = join(daemon.directory, 'loop');
    if (!existsSync(loop)) symlinkSync(loop, loop);
    const config = mount({ container_path: '/data', host_path: loop })(makeContainer(pod)) ?? {};
    await expect(daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config })).rejects.toThrow(/loop/);
  });

  test('a log file that is a link to somewhere else', async () => {
    const config = makeContainer(pod);
    const victim = join(daemon.directory, 'victim');
    writeFileSync(victim, 'precious');
    mkdirSync(join(pod.logDirectory, 'linked'), { recursive: true });
    symlinkSync(victim, join(pod.logDirectory, 'linked/0.log'));
    const request = { pod_sandbox_id: podId, config: { ...config, log_path: 'linked/0.log' }, sandbox_config: pod.config };
    await expect(daemon.cri.CreateContainer(request)).rejects.toThrow(/log/);
    expect(readdirSync(join(pod.logDirectory, 'linked'))).toEqual(['0.log']);
  });

  test('a pod that is not there, or not ready', async () => {
    const request = { config: makeContainer(pod), sandbox_config: pod.config };
    await expect(daemon.cri.CreateContainer({ ...request, pod_sandbox_id: NO_ID })).rejects.toMatchObject({ code: status.NOT_FOUND });
    await expect(daemon.cri.CreateContainer({ ...request, pod_sandbox_id: LONG })).rejects.toMatchObject({ code: status.NOT_FOUND });
    await expect(daemon.cri.CreateContainer({ ...request, pod_sandbox_id: '' })).rejects.toThrow(/pod_sandbox_id|not/);
  });

  test('an image that is not there', async () => {
    const config = { ...makeContainer(pod), image: { image: 'registry.k8s.io/none:1' } };
    await expect(daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config })).rejects.toThrow(/registry\.k8s\.io\/none/);
  });
});

describe('ids that do not exist', () => {
  test.each([NO_ID, 'short', '', LONG, '../../etc', '%s%n'])('are NotFound for status and exec, and success for stop and remove', async (id) => {
    const { cri } = daemon;
    const notFound = { code: id === '' ? expect.any(Number) : status.NOT_FOUND };
    await expect(cri.PodSandboxStatus({ pod_sandbox_id: id })).rejects.toMatchObject(notFound);
    await expect(cri.ContainerStatus({ container_id: id })).rejects.toMatchObject(notFound);
    await expect(cri.ExecSync({ container_id: id, cmd: ['true'] })).rejects.toMatchObject(notFound);
    await expect(cri.StartContainer({ container_id: id })).rejects.toMatchObject(notFound);
    await expect(cri.ReopenContainerLog({ container_id: id })).rejects.toMatchObject(notFound);
    await expect(cri.ContainerStats({ container_id: id })).rejects.toMatchObject(notFound);
    await expect(cri.PodSandboxStats({ pod_sandbox_id: id })).rejects.toMatchObject(notFound);
    if (id === '') return;
    await cri.StopContainer({ container_id: id, timeout: '1' });
    await cri.RemoveContainer({ container_id: id });
    await cri.StopPodSandbox({ pod_sandbox_id: id });
    await cri.RemovePodSandbox({ pod_sandbox_id: id });
  });

  test('are not images either', async () => {
    const { cri } = daemon;
    expect((await cri.ImageStatus({ image: { image: 'registry.k8s.io/none:1' } })).image).toBeNull();
    await cri.RemoveImage({ image: { image: 'registry.k8s.io/none:1' } });
    for (const image of ['', 'lower/CASE', `a/${LONG}`, 'x@sha256:12']) {
      await expect(cri.PullImage({ image: { image } })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    }
  });
});

test('what is not built yet says so by its name', async () => {
  await expect(daemon.cri.CheckpointContainer({ container_id: NO_ID })).rejects.toMatchObject({
    code: status.UNIMPLEMENTED,
    details: expect.stringMatching(/CheckpointContainer/),
  });
});

test('absurd numbers of ExecSync and StopContainer are taken or refused, never obeyed', async () => {
  const { podId, containerId } = await startPod(daemon);
  await expect(daemon.cri.ExecSync({ container_id: containerId, cmd: [] })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
  await expect(daemon.cri.ExecSync({ container_id: containerId, cmd: ['true'], timeout: '-1' })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
  expect((await daemon.cri.ExecSync({ container_id: containerId, cmd: ['true'], timeout: '9223372036854775807' })).exit_code).toBe(0);
  const gone = new AbortController();
  const never = daemon.cri.StopContainer({ container_id: containerId, timeout: '9223372036854775807' }, { signal: gone.signal });
  await daemon.cri.ListContainers();
  gone.abort();
  await never.catch(() => {});
  await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
  await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
  await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
});

test('a request of 16 MiB is taken', async () => {
  const pod = makePod(daemon);
  const podId = await runPod(daemon, pod);
  const args = Array.from({ length: 16 }, () => 'y'.repeat(1024 ** 2));
  const config = { ...makeContainer(pod), args };
  // the kernel takes no argument that long, so that the container may be refused: not the message
  await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config }).catch((err: { code?: number }) => {
    expect(err.code).not.toBe(status.RESOURCE_EXHAUSTED);
  });
  await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
  await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
});

test('1,000 calls at once are all answered, and pods are made beside them', async () => {
  const { cri } = daemon;
  const running = startPod(daemon);
  const calls = Array.from({ length: 1_000 }, (_item, index) => {
    if (index % 5 === 0) return cri.ListContainers();
    if (index % 5 === 1) return cri.ListPodSandbox();
    if (index % 5 === 2) return cri.StopContainer({ container_id: NO_ID, timeout: '1' });
    if (index % 5 === 3) return cri.Status({ verbose: true });
    return cri.ContainerStatus({ container_id: NO_ID }).then(
      () => Promise.reject(new Error('a container that does not exist has a status')),
      (err: { code?: number }) => expect(err.code).toBe(status.NOT_FOUND),
    );
  });
  await Promise.all(calls);
  const { podId, containerId } = await running;
  const execs = Array.from({ length: 100 }, () => cri.ExecSync({ container_id: containerId, cmd: ['true'] }, { deadlineMs: 110_000 }));
  expect((await Promise.all(execs)).every(({ exit_code }) => exit_code === 0)).toBe(true);
  await cri.StopPodSandbox({ pod_sandbox_id: podId });
  await cri.RemovePodSandbox({ pod_sandbox_id: podId });
  expect(await lasting(daemon)).toEqual([]);
});
