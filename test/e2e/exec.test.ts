import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { mount, umount } from '#base/sys.ts';
import { ContainerState } from '../../proto/cri.ts';
import { detectHierarchy } from '../../server/oci/cgroup-hierarchy.ts';
import { type StreamClient, streamClients } from '../support/clients.ts';
import { type Daemon, type Handler, removePods, startDaemon } from '../support/daemon.ts';
import { commandCgroups } from '../support/machine.ts';
import { makePod, readLog, runPod, startContainer, startPod } from '../support/pod.ts';
import { openTerminal } from '../support/terminal.ts';
import { until } from '../support/wait.ts';

const failedPrecondition = { code: status.FAILED_PRECONDITION };

/** Living processes of the machine with these words on their command line, separated by blanks. */
function processesLike(words: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => commandLine(pid) === words);
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
}

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  let client: StreamClient | undefined;
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
    client = streamClients(daemon).at(-1);
  });
  afterEach(async () => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
    daemon.faults.clear();
    await removePods(daemon);
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  /** A session with pipes, or with a terminal, of which the end is awaited by whoever cares. */
  function session(command: readonly [string, ...string[]]) {
    const [file, ...args] = command;
    const child = spawn(file, args, { cwd: daemon.directory, stdio: ['pipe', 'pipe', 'pipe'] });
    children.push(child);
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
    child.stdin.on('error', () => {});
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    return { shown: () => text, ended, type: (words: string) => void child.stdin.write(words) };
  }
  const shell = async (container_id: string, script: string): Promise<string> => {
    const { stdout } = await daemon.cri.ExecSync({ container_id, cmd: ['sh', '-c', script], timeout: '20' });
    return stdout.toString();
  };
  const stateOf = async (container_id: string) => (await daemon.cri.ContainerStatus({ container_id })).status?.state;

  test('a command has the rights, the environment and the cgroup of its container', async () => {
    if (client === undefined) return;
    const { containerId } = await startPod(daemon);
    const look = (pid: string): string =>
      `grep -v name=berth /proc/${pid}/cgroup; cat /proc/${pid}/oom_score_adj; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/${pid}/status; tr '\\0' '\\n' </proc/${pid}/environ | grep -v ^TERM= | sort; pwd`;
    const own = await shell(containerId, look('1'));
    expect(own).toContain('KUBERNETES_SERVICE_HOST');
    for (const flags of [[], ['-i'], ['-t']]) {
      const there = session(client.exec(flags, containerId, ['sh', '-c', `sleep 0.6; ${look('$$')}`])); // the score of a command in its terminal may be set a moment after its start
      await there.ended;
      expect(there.shown().replaceAll('\r', ''), flags.join()).toBe(own);
    }
  });

  test('refused are sessions without a running container, without streams, and with a terminal and stderr', async () => {
    const { cri } = daemon;
    const { containerId: container_id } = await startPod(daemon, {}, { command: ['sleep', '10000'] });
    const exec = (request: object) => cri.Exec({ container_id, cmd: ['true'], stdout: true, ...request });
    await expect(exec({ stdout: false })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await expect(exec({ tty: true, stderr: true })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await expect(exec({ cmd: [] })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await expect(exec({ container_id: 'f'.repeat(64) })).rejects.toMatchObject({ code: status.NOT_FOUND });
    await expect(cri.Attach({ container_id: 'f'.repeat(64), stdout: true })).rejects.toMatchObject({ code: status.NOT_FOUND });
    await cri.StopContainer({ container_id, timeout: '0' });
    await expect(exec({})).rejects.toMatchObject(failedPrecondition);
    await expect(cri.Attach({ container_id, stdout: true })).rejects.toMatchObject(failedPrecondition);
    await expect(cri.ReopenContainerLog({ container_id })).rejects.toMatchObject(failedPrecondition);
  });

  test('commands are welcome while a container is asked to stop, and not once it is being killed', async () => {
    const { containerId } = await startPod(daemon, {}, { command: ['sh', '-c', 'trap "" TERM; while :; do sleep 0.1; done'] });
    const stopping = daemon.cri.StopContainer({ container_id: containerId, timeout: '60' });
    await until('the stop to be under way', () => daemon.faults.calls(handler, 'kill') > 0);
    expect(await shell(containerId, 'echo still here')).toBe('still here\n');
    daemon.faults.set(handler, 'kill', 'hold');
    const killing = daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
    await until('the refusal', () =>
      shell(containerId, 'true').then(
        () => false,
        (err: unknown) => /is being killed/.test(String(err)),
      ),
    );
    daemon.faults.clear();
    await Promise.all([stopping, killing]);
  });

  test('the end of the container ends its sessions', async () => {
    if (client === undefined) return;
    const { containerId } = await startPod(daemon, { shareProcessNamespace: true });
    const sessions = [[], ['-t']].map((flags, index) =>
      session((client as StreamClient).exec(flags, containerId, ['sh', '-c', `echo begun; sleep 211${index}`])),
    );
    for (const { shown } of sessions) await until('the command', () => shown().includes('begun'));
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
    for (const { ended } of sessions) await ended;
    await until('the commands to be gone', () => [...processesLike('sleep 2110'), ...processesLike('sleep 2111')].length === 0);
  });

  test('an OCI runtime that hangs in an exec hangs nothing else', async () => {
    if (client === undefined) return;
    const { containerId } = await startPod(daemon);
    daemon.faults.forget();
    daemon.faults.set(handler, 'exec', 'hang');
    const hanging = [[], ['-t']].map((flags) => session((client as StreamClient).exec(flags, containerId, ['true'])));
    await until('the runtime to hang', () => daemon.faults.calls(handler, 'exec') === 2);
    expect(await stateOf(containerId)).toBe(ContainerState.CONTAINER_RUNNING);
    await expect(daemon.cri.ExecSync({ container_id: containerId, cmd: ['true'], timeout: '1' })).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
    for (const { ended } of hanging) expect(await ended).not.toBe(0);
  });

  test('the daemon stops with sessions open: they are told, and their commands end', async () => {
    if (client === undefined) return;
    const { containerId } = await startPod(daemon);
    const sessions = [[], ['-t']].map((flags, index) =>
      session((client as StreamClient).exec(flags, containerId, ['sh', '-c', `(setsid sleep 212${index} &); echo begun; sleep 214${index}`])),
    );
    const attached = session(client.attach([], containerId));
    for (const { shown } of sessions) await until('the command', () => shown().includes('begun'));
    expect(await daemon.kill('SIGTERM')).toBe(0);
    for (const { ended, shown } of [...sessions, attached]) {
      expect(await ended).not.toBe(0);
      expect(shown()).toContain('stopping');
    }
    for (const seconds of ['2120', '2121', '2140', '2141']) expect(processesLike(`sleep ${seconds}`), seconds).toEqual([]);
    await daemon.start();
    expect(await shell(containerId, 'echo well')).toBe('well\n');
  });

  test('the daemon is killed with sessions open: the next one ends their commands, and the container does not notice', async () => {
    if (client === undefined) return;
    const { containerId, logPath } = await startPod(
      daemon,
      {},
      { command: ['sh', '-c', 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done'], stdin: true },
    );
    const attached = session(client.attach(['-i'], containerId));
    const sessions = [[], ['-t']].map((flags, index) =>
      session((client as StreamClient).exec(flags, containerId, ['sh', '-c', `(setsid sleep 213${index} &); echo begun; sleep 215${index}`])),
    );
    for (const { shown } of sessions) await until('the command', () => shown().includes('begun'));
    await until('output', () => /\d\n/.test(attached.shown()));
    await daemon.restart();
    for (const seconds of ['2130', '2131', '2150', '2151']) expect(processesLike(`sleep ${seconds}`), seconds).toEqual([]);
    expect(readdirSync(join(daemon.runroot, 'exec'))).toEqual([]);
    const again = session(client.attach(['-i'], containerId));
    await until('output again', () => /\d+\n\d+\n/.test(again.shown()));
    const numbers = readLog(logPath).map(({ text }) => Number(text));
    expect(numbers).toEqual(numbers.map((_, index) => index));
    const seen = again.shown().trim().split('\n').map(Number);
    expect(seen).toEqual(seen.map((_, index) => (seen[0] ?? 0) + index));
  });

  test.each([false, true])('what a command leaves in the background goes with the container, its cgroup too (record damaged: %s)', async (damaged) => {
    const { podId, containerId } = await startPod(daemon);
    await shell(containerId, '(setsid sleep 2160 >/dev/null 2>&1 </dev/null &)');
    await until('the daemon', () => processesLike('sleep 2160').length === 1);
    const left = () => commandCgroups().filter((path) => path.includes(containerId));
    if (detectHierarchy().version === 1) expect(left()).toContain(`/${containerId}/berth-exec-0`);
    if (damaged) {
      await daemon.kill('SIGKILL');
      writeFileSync(join(daemon.root, 'containers', containerId, 'record.json'), 'no JSON');
      await daemon.start();
    } else await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
    await until('the daemon to be gone', () => processesLike('sleep 2160').length === 0);
    await until('its cgroup to be gone', () => left().length === 0);
  });

  test('a rotation under load loses no line and doubles none', async () => {
    const count = 60_000;
    const { containerId, logPath } = await startPod(daemon, {}, { command: ['sh', '-c', `seq 1 ${count}; sleep 10000`] });
    const files: string[] = [];
    // the monitor cuts a line where its buffer ends: P joins it with the next
    const lines = (): string[] =>
      [...files, logPath]
        .flatMap((path) => readLog(path).map(({ tag, text }) => (tag === 'P' ? text : `${text}\n`)))
        .join('')
        .split('\n');
    while (lines().at(-2) !== String(count) || files.length < 5) {
      const old = `${logPath}.${files.length}`;
      renameSync(logPath, old);
      files.push(old);
      await daemon.cri.ReopenContainerLog({ container_id: containerId });
      expect(existsSync(logPath)).toBe(true);
      if (files.length > 2_000) throw new Error('the container does not come to its end');
    }
    expect(lines()).toEqual([...Array.from({ length: count }, (_, index) => String(index + 1)), '']);
  });

  test('a line without its end, and one that is too long, keep the tag', async () => {
    const { logPath } = await startPod(
      daemon,
      {},
      { command: ['sh', '-c', 'printf begun; sleep 0.5; echo " ended"; head -c 20000 /dev/zero | tr "\\0" x; echo; sleep 10000'] },
    );
    await until('all of it', () => readLog(logPath).filter(({ tag }) => tag === 'F').length === 2);
    const [first, second, ...long] = readLog(logPath);
    expect([first?.tag, first?.text, second?.tag, second?.text]).toEqual(['P', 'begun', 'F', ' ended']);
    expect(long.map(({ tag }) => tag).join('')).toMatch(/^P+F$/);
    expect(long.map(({ text }) => text).join('')).toBe('x'.repeat(20_000));
  });

  test('a log directory that is full, gone, or replaced by a link does no harm', async () => {
    const pod = makePod(daemon);
    mount('tmpfs', pod.logDirectory, 'tmpfs', 0, 'size=256k');
    try {
      const podId = await runPod(daemon, pod);
      const { containerId, logPath } = await startContainer(daemon, pod, podId, {
        command: ['sh', '-c', 'trap "exit 9" TERM; seq 1 200000; echo >/done; while :; do sleep 0.1; done'],
      });
      await until('all to be printed', async () => (await shell(containerId, 'ls /done 2>/dev/null')) !== '');
      expect(await stateOf(containerId)).toBe(ContainerState.CONTAINER_RUNNING);
      const elsewhere = join(daemon.directory, `elsewhere-${handler}`);
      mkdirSync(elsewhere);
      rmSync(dirname(logPath), { recursive: true });
      await expect(daemon.cri.ReopenContainerLog({ container_id: containerId })).rejects.toMatchObject(failedPrecondition);
      symlinkSync(elsewhere, dirname(logPath));
      await expect(daemon.cri.ReopenContainerLog({ container_id: containerId })).rejects.toMatchObject(failedPrecondition);
      expect(readdirSync(elsewhere)).toEqual([]);
      rmSync(dirname(logPath));
      expect(await stateOf(containerId)).toBe(ContainerState.CONTAINER_RUNNING);
      await daemon.cri.StopContainer({ container_id: containerId, timeout: '20' });
      expect((await daemon.cri.ContainerStatus({ container_id: containerId })).status?.exit_code).toBe(9);
      await removePods(daemon);
    } finally {
      umount(pod.logDirectory);
    }
  });

  test('a client that reads a byte a second holds its own command back, nothing else, in bounded memory', async () => {
    if (client === undefined) return;
    const { containerId } = await startPod(daemon);
    const memory = (): number => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${daemon.pid()}/status`, 'utf8'))?.[1] ?? 0) / 1024;
    const before = memory();
    await using slow = openTerminal('sh', [
      '-c',
      `${client
        .exec([], containerId, ['sh', '-c', 'head -c 200000000 /dev/zero'])
        .map((word) => `'${word}'`)
        .join(' ')} | while head -c 1 >/dev/null; do sleep 1; done`,
    ]);
    await until('the command', () => processesLike('head -c 200000000 /dev/zero').length > 0 || slow.shown() !== '');
    for (let call = 0; call < 20; call += 1) expect(await shell(containerId, 'echo quick')).toBe('quick\n');
    expect(memory() - before).toBeLessThan(40);
    await slow[Symbol.asyncDispose]();
    await until('the command to be gone', () => processesLike('head -c 200000000 /dev/zero').length === 0);
  });
});
