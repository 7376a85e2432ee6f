import { existsSync, statSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { CommandError, run } from '#base/exec.ts';
import { ContainerState } from '../../proto/cri.ts';
import { removePod, shell } from '../support/calls.ts';
import { berthCommand, type Handler, startDaemon } from '../support/daemon.ts';
import { BUSYBOX, PAUSE, writeArchive } from '../support/images.ts';
import { makePod, runPod, startContainer, startPod } from '../support/pod.ts';
import { lives, processesOf } from '../support/processes.ts';
import { lasting } from '../support/remains.ts';
import { findTool } from '../support/tool.ts';

function berth(...args: readonly string[]): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const [file, ...first] = berthCommand();
  return run(file, [...first, ...args], { signal: AbortSignal.timeout(60_000) });
}

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  test('drop_infra_ctr leaves the pause process out, but for pods that share processes', async () => {
    await using daemon = await startDaemon({ handler, registry: inject('registry'), config: { runtime: { drop_infra_ctr: true } } });
    const { podId, containerId } = await startPod(daemon);
    expect(existsSync(join(daemon.runroot, 'bundles', podId, 'pidfile'))).toBe(false);
    expect(await shell(daemon, containerId, 'ls /sys/class/net')).toBe('eth0\nlo');
    await daemon.restart();
    expect((await daemon.cri.ListPodSandbox()).items).toMatchObject([{ id: podId, state: 0 }]);
    await removePod(daemon, podId);

    const shared = await startPod(daemon, { shareProcessNamespace: true });
    expect(lives(processesOf(daemon, shared.podId).init)).toBe(true);
    await removePod(daemon, shared.podId);
    expect(await lasting(daemon)).toEqual([]);
  });

  test('pause_image is pulled, run, and kept from the image collector', async () => {
    await using daemon = await startDaemon({ handler, registry: inject('registry'), config: { image: { pause_image: PAUSE } } });
    const { podId, containerId } = await startPod(daemon, { shareProcessNamespace: true });
    expect(await shell(daemon, containerId, 'cat /proc/1/comm')).toBe('pause');
    const { image } = await daemon.cri.ImageStatus({ image: { image: PAUSE } });
    expect(image?.pinned).toBe(true);
    await removePod(daemon, podId);
    expect(await lasting(daemon)).toEqual([]);
  });
});

/** Debian 12's runtimes do not know the field; test/run builds a runc that does. */
const newRunc = findTool('runc-new');
if (newRunc === undefined) console.warn('SKIPPED: exec_cpu_affinity: run test/run once, which builds a runc that knows it');

test.skipIf(newRunc === undefined || cpus().length < 2)('exec_cpu_affinity keeps commands to the first CPU of the container', async () => {
  const newer = { runtime_path: newRunc ?? '', exec_cpu_affinity: 'first' };
  await using daemon = await startDaemon({
    handler: 'runc',
    registry: inject('registry'),
    config: { runtime: { default_runtime: 'newer' }, 'runtime.runtimes.newer': newer },
  });
  const { podId, containerId } = await startPod(daemon, {}, { resources: { cpuset_cpus: '0-1' } });
  const allowed = (pid: string) => shell(daemon, containerId, `grep Cpus_allowed_list: /proc/${pid}/status`);
  expect(await allowed('1')).toBe('Cpus_allowed_list:\t0-1');
  expect(await allowed('self')).toBe('Cpus_allowed_list:\t0');
  await removePod(daemon, podId);
  expect(await lasting(daemon)).toEqual([]);
});

test.each(['docker-archive', 'oci-archive'] as const)('berth image load takes a %s, and a pod starts without any registry', async (format) => {
  await using daemon = await startDaemon({ handler: 'crun' });
  const archive = join(daemon.directory, 'busybox.tar');
  await writeArchive(archive, BUSYBOX, format);
  const { stdout } = await berth('image', 'load', archive, '--name', BUSYBOX, '--config', daemon.configFile);
  const { image } = await daemon.cri.ImageStatus({ image: { image: BUSYBOX } });
  expect(stdout).toContain(image?.id);
  expect(image?.repo_tags).toEqual([BUSYBOX]);
  const { containerId } = await startPod(daemon);
  expect(await shell(daemon, containerId, 'echo works')).toBe('works');
});

test('what the node cannot give is clamped, and said once', async () => {
  await using daemon = await startDaemon({ handler: 'crun', registry: inject('registry') });
  const { pod, podId, containerId } = await startPod(daemon, { hostNetwork: true });
  await startContainer(daemon, pod, podId, { name: 'second' });
  const { status } = await daemon.cri.ContainerStatus({ container_id: containerId });
  expect(status?.state).toBe(ContainerState.CONTAINER_RUNNING);
  const given = Number(await shell(daemon, containerId, 'cat /proc/1/oom_score_adj'));
  const clamped = daemon
    .log()
    .split('\n')
    .filter((line) => line.includes('Clamped oom_score_adj'));
  // -997 was asked for: it is given where the daemon may, and otherwise the daemon's own
  expect(clamped).toHaveLength(given === -997 ? 0 : 1);
});

test('a second daemon on the same files is refused while the first lives, whose socket is for its group alone', async () => {
  await using daemon = await startDaemon({ handler: 'crun' });
  expect((statSync(daemon.socket).mode & 0o777).toString(8)).toBe('660');
  const second = await berth('daemon', '--config', daemon.configFile).catch((err: unknown) => err);
  expect(second).toBeInstanceOf(CommandError);
  const { stdout, stderr } = second as CommandError;
  expect(stdout + stderr).toContain(`root ${daemon.root}: another berth daemon works on it, with the pid ${daemon.pid()}`);
  await daemon.cri.Version();
  await daemon.kill('SIGKILL');
  expect(existsSync(daemon.socket)).toBe(true);
  await daemon.start();
  await runPod(daemon, makePod(daemon, { hostNetwork: true }));
});
