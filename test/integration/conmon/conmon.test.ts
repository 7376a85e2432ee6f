import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { identifyProcess, isAlive, readProcessStat, signalProcess } from '#base/process.ts';
import { adoptMonitor, bundleFiles, type MonitorSpec, readExit, startMonitor } from '../../../conmon/conmon.ts';
import { countFds, gone, makeBundle, processesWith, RUNTIMES, type TestBundle, until } from './bundle.ts';

const exitOf = ({ spec }: TestBundle) => readExit(spec.exitDir, spec.id, spec.bundle);
const never = new AbortController().signal;

async function expectNothingLeft(bundle: TestBundle): Promise<void> {
  // A runtime that lost its monitor needs a moment to see it.
  await until(() => processesWith(bundle.spec.id).length === 0 && bundle.cgroupProcs().length === 0, 'all processes of the container to be gone');
}

describe.each(RUNTIMES)('with %s', (runtimePath) => {
  const name = basename(runtimePath);

  test('startMonitor() creates a container that waits for start, under a monitor in a session of its own', async () => {
    await using bundle = await makeBundle(runtimePath, { args: ['sh', '-c', 'echo out; echo err >&2; exit 7'] });
    const { monitor, init } = await bundle.start();
    expect(readProcessStat(monitor.pid)).toMatchObject({ sessionId: monitor.pid });
    expect(readProcessStat(init.pid)).toMatchObject({ parentPid: monitor.pid });
    expect(JSON.parse(await bundle.runtime('state', bundle.spec.id))).toMatchObject({ status: 'created', pid: init.pid });
    expect(await exitOf(bundle)).toBeUndefined();

    await bundle.runtime('start', bundle.spec.id);
    await until(async () => (await exitOf(bundle)) !== undefined, 'the exit file');
    const exit = await exitOf(bundle);
    expect(exit).toMatchObject({ exitCode: 7, oomKilled: false });
    expect(Math.abs(Number(exit?.finishedAt) / 1e6 - Date.now())).toBeLessThan(60_000);
    await gone(monitor);
    const lines = readFileSync(bundle.logPath, 'utf8').split('\n');
    expect(lines.map((line) => line.split(' ').slice(1).join(' ')).sort()).toEqual(['', 'stderr F err', 'stdout F out']);
  });

  test('startMonitor() tells the code of a container that was killed', async () => {
    await using bundle = await makeBundle(runtimePath);
    const { init } = await bundle.startAndRun();
    signalProcess(init, 'SIGKILL');
    await until(async () => (await exitOf(bundle)) !== undefined, 'the exit file');
    expect(await exitOf(bundle)).toMatchObject({ exitCode: 137, oomKilled: false });
  });

  test('readExit() tells that the kernel killed something for memory', async () => {
    await using bundle = await makeBundle(runtimePath, {
      args: ['sh', '-c', 'x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done'],
      memoryLimitBytes: 24 * 1024 * 1024,
    });
    await bundle.startAndRun();
    await until(async () => (await exitOf(bundle)) !== undefined, 'the exit file');
    expect(await exitOf(bundle)).toMatchObject({ exitCode: 137, oomKilled: true });
  });

  test('startMonitor() drops the output when there is no log path', async () => {
    await using bundle = await makeBundle(runtimePath, { args: ['sh', '-c', 'head -c 1000000 /dev/zero; exit 3'], log: false });
    const { monitor } = await bundle.startAndRun();
    await until(async () => (await exitOf(bundle)) !== undefined, 'the exit file');
    expect(await exitOf(bundle)).toMatchObject({ exitCode: 3 });
    await gone(monitor);
    expect(() => readFileSync(bundle.logPath)).toThrow('ENOENT');
  });

  test('startMonitor() gives a terminal', async () => {
    await using bundle = await makeBundle(runtimePath, { args: ['sh', '-c', 'test -t 0 && test -t 1 && echo is a terminal'], terminal: true });
    await bundle.startAndRun();
    await until(async () => (await exitOf(bundle)) !== undefined, 'the exit file');
    expect(readFileSync(bundle.logPath, 'utf8')).toContain('is a terminal');
  });

  test('startMonitor() tells the words of the runtime when the command is not there', async () => {
    await using bundle = await makeBundle(runtimePath, { args: ['foo'] });
    const error = name === 'crun' ? /crun: executable file `foo` not found in \$PATH/ : /runc: .*exec: "foo": executable file not found in \$PATH$/;
    await expect(bundle.start()).rejects.toThrow(error);
    await expect(bundle.start()).rejects.toMatchObject({ name: 'CriError', message: expect.stringContaining(`create container ${bundle.spec.id}: `) });
    await expectNothingLeft(bundle);
  });

  test('startMonitor() tells the words of the runtime when config.json is no JSON', async () => {
    await using bundle = await makeBundle(runtimePath);
    writeFileSync(join(bundle.spec.bundle, 'config.json'), '{"ociVersion": ');
    await expect(bundle.start()).rejects.toThrow(new RegExp(`${name}: .*(JSON|parse|EOF|config.json)`));
    await expectNothingLeft(bundle);
  });

  test('startMonitor() leaves nothing behind wherever it is aborted', async () => {
    for (const delayMs of [0, 1, 2, 3, 5, 8, 12]) {
      await using bundle = await makeBundle(runtimePath);
      const reason = new Error('caller left');
      const controller = new AbortController();
      const starting = bundle.start(controller.signal);
      setTimeout(() => controller.abort(reason), delayMs);
      const outcome = await starting.catch((err: unknown) => err);
      if (outcome instanceof Error) {
        expect(outcome).toBe(reason);
        await expectNothingLeft(bundle);
      }
    }
  });

  test('startMonitor() keeps no file descriptor, whether it succeeds or fails', async () => {
    await using good = await makeBundle(runtimePath);
    await using bad = await makeBundle(runtimePath, { args: ['foo'] });
    await bad.start().catch(() => {}); // what is opened once and for all is open now
    const before = countFds();
    await good.start();
    await bad.start().catch(() => {});
    expect(countFds()).toBe(before);
  });

  test('adoptMonitor() finds the processes of the container, and none of a stranger', async () => {
    await using bundle = await makeBundle(runtimePath);
    const started = await bundle.start();
    expect(await adoptMonitor(bundle.spec.bundle)).toEqual(started);
    signalProcess(started.monitor, 'SIGKILL');
    await gone(started.monitor);
    expect(await adoptMonitor(bundle.spec.bundle)).toEqual({ monitor: undefined, init: started.init });
    for (const file of [bundleFiles(bundle.spec.bundle).monitorPid, bundleFiles(bundle.spec.bundle).initPid]) writeFileSync(file, String(process.pid));
    expect(await adoptMonitor(bundle.spec.bundle)).toEqual({ monitor: undefined, init: undefined });
    signalProcess(started.init, 'SIGKILL');
    for (const file of [bundleFiles(bundle.spec.bundle).monitorPid, bundleFiles(bundle.spec.bundle).initPid]) rmSync(file);
  });
});

describe('without a working runtime', () => {
  const CRUN = '/usr/bin/crun';

  async function makeFake(script: string, spec: Partial<MonitorSpec> = {}): Promise<TestBundle> {
    const bundle = await makeBundle(CRUN, { spec });
    const runtimePath = join(bundle.directory, 'fake-runtime');
    writeFileSync(runtimePath, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    return { ...bundle, spec: { ...bundle.spec, runtimePath }, [Symbol.asyncDispose]: () => bundle[Symbol.asyncDispose]() };
  }

  test('startMonitor() kills a runtime that hangs, with all it started, on abort', async () => {
    const script = 'echo $$ > "$(dirname "$0")/pid"; setsid sh -c "sleep 1001" & (setsid sleep 1002 &) ; sleep 1003';
    await using bundle = await makeFake(script);
    const controller = new AbortController();
    const starting = startMonitor(bundle.spec, { signal: controller.signal });
    const children = ['sleep\0' + '1001', 'sleep\0' + '1002', 'sleep\0' + '1003'];
    await until(() => children.every((words) => processesWith(words).length > 0), 'the fake runtime to hang');
    controller.abort(new Error('caller left'));
    await expect(starting).rejects.toThrow('caller left');
    expect(children.flatMap(processesWith)).toEqual([]);
    expect(processesWith(bundle.spec.id)).toEqual([]);
  });

  test('startMonitor() fails when the monitor dies in the middle', async () => {
    await using bundle = await makeFake('sleep 1004');
    const starting = startMonitor(bundle.spec, { signal: never });
    starting.catch(() => {});
    await until(async () => processesWith('sleep\0' + '1004').length > 0 && (await adoptMonitor(bundle.spec.bundle)).monitor !== undefined, 'the monitor');
    const { monitor } = await adoptMonitor(bundle.spec.bundle);
    if (monitor !== undefined) signalProcess(monitor, 'SIGKILL');
    await expect(starting).rejects.toThrow(`create container ${bundle.spec.id}: monitor ended without a report`);
    for (const pid of processesWith('sleep\0' + '1004')) process.kill(pid, 'SIGKILL'); // a shell's child knows no death signal
  });

  test('startMonitor() fails when the runtime fails without a word', async () => {
    await using bundle = await makeFake('exit 1');
    await expect(startMonitor(bundle.spec, { signal: never })).rejects.toThrow(`create container ${bundle.spec.id}: `);
    expect(processesWith(bundle.spec.id)).toEqual([]);
  });

  test.each([
    ['the runtime is missing', { runtimePath: '/nonexistent/crun' }, /monitor failed: .*\/nonexistent\/crun/],
    ['the monitor is missing', { conmonPath: '/nonexistent/conmon' }, /monitor \/nonexistent\/conmon is missing$/],
    ['the monitor is not executable', { conmonPath: '/etc/passwd' }, /monitor \/etc\/passwd is not executable$/],
    ['the directory of the log is missing', { logPath: '/nonexistent/0.log' }, /monitor failed: .*log file/],
    ['the log path holds a colon', { logPath: '/tmp/a:b.log' }, /log path \/tmp\/a:b.log holds a colon$/],
    ['the bundle is missing', { bundle: '/nonexistent/bundle' }, /bundle \/nonexistent\/bundle is missing$/],
    ['the socket would have too long a path', { bundle: `/tmp/${'x'.repeat(100)}` }, /socket path .* is 112 bytes long, more than 107$/],
  ])('startMonitor() says so when %s', async (_what, spec, message) => {
    await using bundle = await makeBundle(CRUN, { spec });
    await expect(bundle.start()).rejects.toThrow(message);
    expect(processesWith(bundle.spec.id)).toEqual([]);
  });

  test('startMonitor() places the monitor before anything runs, and undoes it when that fails', async () => {
    const placed: number[] = [];
    await using bundle = await makeBundle(CRUN, { spec: { place: (pid) => void placed.push(pid) } });
    await bundle.start();
    expect(placed).toHaveLength(1);

    const place = (pid: number): never => {
      expect(identifyProcess(pid)).toBeDefined();
      throw new Error('no such cgroup');
    };
    await using other = await makeBundle(CRUN, { spec: { place } });
    await expect(other.start()).rejects.toThrow(`create container ${other.spec.id}: no such cgroup`);
    expect(processesWith(other.spec.id)).toEqual([]);
  });

  test('startMonitor() tells the words of a monitor that ended before it could be placed', async () => {
    const place = async (pid: number): Promise<void> => {
      await until(() => identifyProcess(pid) === undefined, 'the monitor to end');
      throw new Error('no such process');
    };
    await using bundle = await makeBundle(CRUN, { spec: { runtimePath: '/nonexistent/crun', place } });
    await expect(bundle.start()).rejects.toThrow(/monitor failed: .*\/nonexistent\/crun/);
  });

  test('startMonitor() starts nothing when it is aborted already', async () => {
    await using bundle = await makeBundle(CRUN);
    await expect(bundle.start(AbortSignal.abort(new Error('gone')))).rejects.toThrow('gone');
    expect(processesWith(bundle.spec.id)).toEqual([]);
  });

  test('a container outlives its monitor', async () => {
    await using bundle = await makeBundle(CRUN);
    const { monitor, init } = await bundle.startAndRun();
    signalProcess(monitor, 'SIGKILL');
    await gone(monitor);
    expect(isAlive(init)).toBe(true);
    expect(await exitOf(bundle)).toBeUndefined();
  });
});
