import { renameSync, statSync } from 'node:fs';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { ContainerState } from '../../proto/cri.ts';
import { containerStatus, exited, removePod, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { readLog, startPod } from '../support/pod.ts';
import { until } from '../support/wait.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;

  beforeAll(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  test('the log has every line of both streams, and partial ones', async () => {
    const script = `echo out; echo err >&2; echo; printf 'no newline'; head -c 40000 /dev/zero | tr '\\0' x; echo`;
    const { podId, containerId, logPath } = await startPod(daemon, {}, { command: ['sh', '-c', script] });
    await exited(daemon, containerId);
    const lines = readLog(logPath);
    const ofStream = (stream: string) =>
      lines
        .filter((line) => line.stream === stream)
        .map(({ tag, text }) => (tag.startsWith('P') ? text : `${text}\n`))
        .join('');
    expect(ofStream('stderr')).toBe('err\n');
    expect(ofStream('stdout')).toBe(`out\n\nno newline${'x'.repeat(40_000)}\n`);
    expect(lines.every(({ time }) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)$/.test(time))).toBe(true);
    await removePod(daemon, podId);
  });

  test('ReopenContainerLog() follows a rotation, and loses nothing where there was none', async () => {
    const { podId, containerId, logPath } = await startPod(daemon, {}, { command: ['sh', '-c', 'i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done'] });
    await until('some lines', () => readLog(logPath).length > 3);
    await daemon.cri.ReopenContainerLog({ container_id: containerId });
    expect(readLog(logPath).length).toBeGreaterThan(3);

    renameSync(logPath, `${logPath}.20260101-000000`);
    await daemon.cri.ReopenContainerLog({ container_id: containerId });
    expect(statSync(logPath).isFile()).toBe(true);
    await until('lines in the new log', () => readLog(logPath).length > 3);
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
    const numbers = [...readLog(`${logPath}.20260101-000000`), ...readLog(logPath)].map(({ text }) => Number(text));
    expect(numbers).toEqual(numbers.map((_number, index) => index + 1));
    await expect(daemon.cri.ReopenContainerLog({ container_id: containerId })).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
    await removePod(daemon, podId);
  });

  describe('ExecSync()', () => {
    let podId: string;
    let containerId: string;
    beforeAll(async () => {
      ({ podId, containerId } = await startPod(daemon));
    });
    afterAll(() => removePod(daemon, podId));

    test('gives both streams and the exit code', async () => {
      const answer = await daemon.cri.ExecSync({ container_id: containerId, cmd: ['sh', '-c', 'echo out; echo err >/dev/stderr; exit 42'] });
      expect({ ...answer, stdout: answer.stdout.toString(), stderr: answer.stderr.toString() }).toEqual({ stdout: 'out\n', stderr: 'err\n', exit_code: 42 });
    });

    test('keeps 16 MiB of each stream and takes the rest', async () => {
      const { stdout, exit_code } = await daemon.cri.ExecSync({ container_id: containerId, cmd: ['sh', '-c', 'head -c 20000000 /dev/zero; exit 3'] });
      expect({ bytes: stdout.length, exit_code }).toEqual({ bytes: 16 * 1024 ** 2, exit_code: 3 });
    });

    test('answers DEADLINE_EXCEEDED at its timeout and kills the whole tree', async () => {
      const script = 'sleep 9001 & (setsid sh -c "sleep 9002" &) ; (sh -c "sleep 9003 &" &); sleep 9004';
      const asked = daemon.cri.ExecSync({ container_id: containerId, cmd: ['sh', '-c', script], timeout: '1' });
      await expect(asked).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
      const left = await shell(
        daemon,
        containerId,
        'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f 2>/dev/null; echo; done | grep -E "^sleep 900[1234]" || true',
      );
      expect(left).toBe('');
    });

    test('fails for a program that is not there, and for a container that is not there', async () => {
      await expect(daemon.cri.ExecSync({ container_id: containerId, cmd: ['/no/such/program'] })).rejects.toThrow(/no\/such\/program/);
      await expect(daemon.cri.ExecSync({ container_id: '0'.repeat(64), cmd: ['true'] })).rejects.toMatchObject({ code: status.NOT_FOUND });
    });
  });

  describe('StopContainer()', () => {
    const stubborn = ['sh', '-c', 'trap "" TERM; while true; do sleep 0.1; done'];

    test("sends the image's stop signal and lets the container end", async () => {
      const { podId, containerId } = await startPod(daemon, {}, { command: ['sh', '-c', 'trap "exit 5" TERM; while true; do sleep 0.1; done'] });
      await daemon.cri.StopContainer({ container_id: containerId, timeout: '60' });
      expect(await containerStatus(daemon, containerId)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exit_code: 5 });
      await daemon.cri.StopContainer({ container_id: containerId, timeout: '60' });
      await removePod(daemon, podId);
    });

    test('kills after the grace period', async () => {
      const { podId, containerId } = await startPod(daemon, {}, { command: stubborn });
      await daemon.cri.StopContainer({ container_id: containerId, timeout: '1' });
      expect(await containerStatus(daemon, containerId)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exit_code: 137 });
      await removePod(daemon, podId);
    });

    test('is shortened by a later call with a shorter timeout', async () => {
      const { podId, containerId } = await startPod(daemon, {}, { command: stubborn });
      const long = daemon.cri.StopContainer({ container_id: containerId, timeout: '600' }, { deadlineMs: 700_000 });
      await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
      await long;
      expect(await containerStatus(daemon, containerId)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exit_code: 137 });
      await removePod(daemon, podId);
    });

    test('succeeds for ids that are not there, as the other verbs that take away do', async () => {
      const id = '0'.repeat(64);
      await daemon.cri.StopContainer({ container_id: id, timeout: '1' });
      await daemon.cri.RemoveContainer({ container_id: id });
      await daemon.cri.StopPodSandbox({ pod_sandbox_id: id });
      await daemon.cri.RemovePodSandbox({ pod_sandbox_id: id });
      await expect(daemon.cri.ContainerStatus({ container_id: id })).rejects.toMatchObject({ code: status.NOT_FOUND });
    });
  });
});
