import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { CommandError, run } from '#base/exec.ts';
import { ContainerState } from '../../proto/cri.ts';
import { containerStatus, exited, shell } from '../support/calls.ts';
import { streamClients } from '../support/clients.ts';
import { type Daemon, removePods, startDaemon } from '../support/daemon.ts';
import { cgroupOf } from '../support/limits.ts';
import { makeContainer, makePod, readLog, runPod, startContainer, startPod } from '../support/pod.ts';
import { lives, processesOf } from '../support/processes.ts';
import { lasting } from '../support/remains.ts';
import { findTool } from '../support/tool.ts';
import { until } from '../support/wait.ts';

const MIB = 1024 ** 2;

/** gVisor's runsc, which has a kernel of its own for each container: what Berth takes for granted of crun and runc shows here. */
const runsc = findTool('runsc');
const obstacle = runsc === undefined ? 'runsc is not installed' : await whyNot(runsc);
if (obstacle !== undefined) console.warn(`SKIPPED: a pod in gVisor: ${obstacle}`);

/** Why it cannot run here, in its own words: its kernel needs ptrace(2) and seccomp(2) of ours. */
async function whyNot(program: string): Promise<string | undefined> {
  try {
    await run(program, ['--ignore-cgroups', '--network=none', '--platform=ptrace', 'do', 'true'], { signal: AbortSignal.timeout(60_000) });
    return undefined;
  } catch (err) {
    if (process.env.REQUIRE_ROOT === '1' || !(err instanceof CommandError)) throw err;
    return err.stderr.trim() || err.message;
  }
}

describe.skipIf(obstacle !== undefined)('with runsc', () => {
  let daemon: Daemon;
  let directory: string;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'gvisor-'));
    const program = join(directory, 'runsc');
    // Each container is a sandbox of its own, which shares the pod's network by going through the kernel's.
    writeFileSync(program, `#!/bin/sh\nexec ${runsc} --platform=ptrace --network=host "$@"\n`, { mode: 0o755 });
    const runtime = { default_runtime: 'gvisor' };
    daemon = await startDaemon({ handler: 'crun', registry: inject('registry'), config: { runtime, 'runtime.runtimes.gvisor': { runtime_path: program } } });
  });
  afterEach(async () => {
    await removePods(daemon);
    expect(await lasting(daemon)).toEqual([]);
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true });
  });

  const exec = (container_id: string, script: string, timeout = '30') => daemon.cri.ExecSync({ container_id, cmd: ['sh', '-c', script], timeout });
  const trapping = 'trap "echo ending; exit 7" TERM; echo up; echo wrong >&2; while :; do sleep 0.1; done';

  test('a container lives from its creation to its removal', async () => {
    const { podId, containerId, logPath } = await startPod(daemon, {}, { command: ['sh', '-c', trapping] });
    await until('its first lines', () => readLog(logPath).length >= 2);
    expect(await shell(daemon, containerId, 'dmesg')).toContain('Starting gVisor');
    const { stdout, stderr, exit_code } = await exec(containerId, 'echo out; echo err >&2; exit 4');
    expect([stdout.toString(), stderr.toString(), exit_code]).toEqual(['out\n', 'err\n', 4]);
    expect(await shell(daemon, containerId, 'cat /var/run/secrets/kubernetes.io/serviceaccount/token; hostname')).toMatch(/^a token.*web-/s);
    expect(await shell(daemon, containerId, 'cat /etc/resolv.conf')).toContain('nameserver 10.96.0.10');

    const { stats } = await daemon.cri.ContainerStats({ container_id: containerId });
    expect(Number(stats?.cpu?.usage_core_nano_seconds?.value)).toBeGreaterThan(0);
    expect(Number(stats?.memory?.working_set_bytes?.value)).toBeGreaterThan(MIB);
    const pod = await daemon.cri.PodSandboxStats({ pod_sandbox_id: podId });
    expect(Number(pod.stats?.linux?.memory?.working_set_bytes?.value)).toBeGreaterThan(MIB);

    await daemon.cri.StopContainer({ container_id: containerId, timeout: '20' });
    expect(await containerStatus(daemon, containerId)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exit_code: 7, reason: 'Error' });
    expect(
      readLog(logPath)
        .map(({ stream, text }) => `${stream} ${text}`)
        .sort(),
    ).toEqual(['stderr wrong', 'stdout ending', 'stdout up']);
    await daemon.cri.RemoveContainer({ container_id: containerId });
    expect((await daemon.cri.ListContainers({})).containers).toEqual([]);
  });

  test('containers of a pod share its network, which serves others', async () => {
    const server = ['sh', '-c', 'mkdir /www; echo served >/www/index.html; exec httpd -f -p 8080 -h /www'];
    const { pod, podId, containerId } = await startPod(daemon, {}, { command: server });
    const address = (await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).status?.network?.ip ?? '';
    const answer = (host: string) => fetch(`http://${host}:8080/`).then((response) => response.text());
    expect(await until('the server', () => answer(address).catch(() => undefined))).toBe('served\n');
    const second = await startContainer(daemon, pod, podId, { name: 'second' });
    const get = (host: string) => shell(daemon, second.containerId, `printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 20 ${host} 8080 2>&1`);
    for (const host of ['127.0.0.1', address]) expect(await get(host)).toMatch(/^HTTP\/1.1 200 OK.*served$/s);
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
    expect(await exited(daemon, containerId)).toMatchObject({ exit_code: 137 });
    expect(await shell(daemon, second.containerId, 'echo still here')).toBe('still here');
  });

  test('it lives on while the daemon is away, and is known afterwards', async () => {
    const { containerId, podId } = await startPod(daemon);
    const { init, monitor } = processesOf(daemon, containerId);
    await daemon.restart();
    expect([lives(init), lives(monitor)]).toEqual([true, true]);
    expect(await shell(daemon, containerId, 'echo here')).toBe('here');
    await daemon.kill('SIGKILL');
    process.kill(init, 'SIGKILL');
    await until('its end', () => !lives(init) && !lives(monitor));
    await daemon.start();
    expect(await exited(daemon, containerId)).toMatchObject({ exit_code: 137, reason: 'Error' });
    expect((await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).status?.state).toBe(0);
  });

  test('a command is given up at its time limit, goes on inside, and ends with the container', async () => {
    const { containerId } = await startPod(daemon, {}, { command: ['sh', '-c', trapping] });
    await expect(exec(containerId, 'echo begun >/begun; sleep 1000', '3')).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
    expect(await shell(daemon, containerId, 'cat /begun; pidof sleep >/dev/null && echo goes on')).toBe('begun\ngoes on'); // our kernel sees no process of it
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '20' });
    expect(await containerStatus(daemon, containerId)).toMatchObject({ exit_code: 7 });
  });

  test('a memory limit holds, and its end is told as such', async () => {
    const resources = { memory_limit_in_bytes: String(80 * MIB) };
    const { containerId } = await startPod(daemon, {}, { command: ['tail', '/dev/zero'], resources });
    expect(await exited(daemon, containerId)).toMatchObject({
      reason: 'OOMKilled',
      message: expect.stringContaining(`memory limit of ${80 * MIB} bytes was reached`),
    });
  });

  test('limits, which runsc cannot change, stay as they are when a change is asked for', async () => {
    const { containerId } = await startPod(daemon);
    const limit = join(cgroupOf(processesOf(daemon, containerId).init, 'memory'), 'memory.limit_in_bytes');
    const before = existsSync(limit) ? readFileSync(limit, 'utf8') : '';
    await expect(daemon.cri.UpdateContainerResources({ container_id: containerId, linux: { memory_limit_in_bytes: String(128 * MIB) } })).rejects.toMatchObject(
      { message: expect.stringContaining('nothing was changed') },
    );
    if (existsSync(limit)) expect(readFileSync(limit, 'utf8')).toBe(before);
    expect((await containerStatus(daemon, containerId)).resources?.linux?.memory_limit_in_bytes).toBe(String(64 * MIB));
    expect(await shell(daemon, containerId, 'echo still here')).toBe('still here');
  });

  test('Status says that it knows no user namespaces, and a pod that wants one is refused', async () => {
    const { runtime_handlers } = await daemon.cri.Status({});
    expect(runtime_handlers.find(({ name }) => name === 'gvisor')?.features?.user_namespaces).toBe(false);
    await expect(runPod(daemon, makePod(daemon, { usersFrom: 3 * 65_536 }))).rejects.toThrow(/user namespace/);
  });

  test('a command is typed into', async () => {
    const client = streamClients(daemon).at(0);
    if (client === undefined) return;
    const { containerId } = await startPod(daemon);
    const [file, ...args] = client.exec(['-i'], containerId, ['sh']);
    const child = spawn(file, args, { cwd: daemon.directory, stdio: ['pipe', 'pipe', 'ignore'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    child.stdin.end('echo typed $((6 * 7)); exit 3\n');
    await new Promise((resolve) => child.once('close', resolve));
    expect(text).toBe('typed 42\n');
  });

  test('a container that its program keeps from starting says why', async () => {
    const pod = makePod(daemon);
    const podId = await runPod(daemon, pod);
    const config = makeContainer(pod, { command: ['/nowhere'] });
    const start = async (): Promise<void> => {
      const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config });
      await daemon.cri.StartContainer({ container_id });
    };
    await expect(start()).rejects.toThrow(/nowhere/);
  });
});
