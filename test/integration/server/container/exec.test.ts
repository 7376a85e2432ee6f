import { readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isAlive, signalProcess } from '#base/process.ts';
import { type ExecOptions, execSync } from '../../../../server/container/exec.ts';
import type { ExecTarget } from '../../../../server/container/exec-target.ts';
import { countFds, gone, makeBundle, processesWith, RUNTIMES, type TestBundle, until } from '../../conmon/bundle.ts';
import { disposeOf, takeCgroup } from './command-cgroups.ts';

const MiB = 1024 * 1024;
const never = new AbortController().signal;

interface Running extends AsyncDisposable {
  readonly bundle: TestBundle;
  readonly target: ExecTarget;
  readonly exec: (command: readonly string[], options?: Partial<ExecOptions>) => ReturnType<typeof execSync>;
  readonly shell: (script: string, options?: Partial<ExecOptions>) => ReturnType<typeof execSync>;
}

async function runContainer(runtimePath: string): Promise<Running> {
  const bundle = await makeBundle(runtimePath, { log: false });
  const { init } = await bundle.startAndRun();
  const { id, runtimeRoot } = bundle.spec;
  const target: ExecTarget = {
    id,
    runtimePath,
    runtimeRoot,
    bundle: bundle.spec.bundle,
    init,
    cgroupProcs: bundle.cgroupProcs,
    takeCgroup: takeCgroup(bundle),
    process: bundle.process,
  };
  const exec: Running['exec'] = (command, options = {}) => execSync(target, command, { timeoutMs: 0, signal: never, ...options });
  return {
    bundle,
    target,
    exec,
    shell: (script, options) => exec(['sh', '-c', script], options),
    [Symbol.asyncDispose]: () => disposeOf(bundle),
  };
}

/** Only the container's own process is left, and no scratch file. */
async function expectClean({ bundle, target }: Running): Promise<void> {
  await until(() => bundle.cgroupProcs().length === 1, 'the container to hold nothing but its init');
  expect(bundle.cgroupProcs()).toEqual([target.init.pid]);
  expect(isAlive(target.init)).toBe(true);
  expect(readdirSync(target.bundle).filter((file) => file.startsWith('exec-'))).toEqual([]);
  expect(processesWith(`${target.id}\0`).filter((pid) => !processesWith('conmon').includes(pid))).toEqual([]);
}

describe.each(RUNTIMES)('execSync() with %s', (runtimePath) => {
  const name = basename(runtimePath);

  test('returns output and exit code of the command', async () => {
    await using container = await runContainer(runtimePath);
    const result = await container.shell('echo "$MARK"; echo wrong >&2; exit 7');
    expect({ ...result, stdout: String(result.stdout), stderr: String(result.stderr) }).toEqual({
      stdout: 'of the container\n',
      stderr: 'wrong\n',
      exitCode: 7,
    });
    expect((await container.exec(['true'])).exitCode).toBe(0);
    expect((await container.shell('nonexistent')).exitCode).toBe(127);
    expect((await container.shell('exit 255')).exitCode).toBe(255);
    expect((await container.shell('kill -9 $$')).exitCode).toBe(137);
    await expectClean(container);
  });

  test('gives the command an empty stdin and pipes that it can open by name', async () => {
    await using container = await runContainer(runtimePath);
    const result = await container.shell('cat; echo named > /proc/self/fd/1; echo too > /proc/self/fd/2');
    expect([String(result.stdout), String(result.stderr), result.exitCode]).toEqual(['named\n', 'too\n', 0]);
  });

  test('keeps the first 16 MiB of each stream and drops the rest', async () => {
    await using container = await runContainer(runtimePath);
    const result = await container.shell('yes 0123456789abcde | head -c 20971520; yes e | head -c 20971520 >&2');
    expect([result.stdout.length, result.stderr.length, result.exitCode]).toEqual([16 * MiB, 16 * MiB, 0]);
    expect(String(result.stdout.subarray(-16))).toBe('0123456789abcde\n');
    const small = await container.shell('echo 0123456789', { maxOutputBytes: 4 });
    expect(String(small.stdout)).toBe('0123');
  });

  test.each([['nope'], ['/nope'], ['/proc']])('tells the words of the runtime when %s cannot be executed', async (command) => {
    await using container = await runContainer(runtimePath);
    await expect(container.exec([command])).rejects.toMatchObject({ name: 'CriError', kind: 'unknown' });
    await expect(container.exec([command])).rejects.toThrow(new RegExp(`^exec in container ${container.target.id}: ${name}: .`));
    await expectClean(container);
  });

  test('fails when the container has ended', async () => {
    await using container = await runContainer(runtimePath);
    signalProcess(container.target.init, 'SIGKILL');
    await gone(container.target.init);
    await expect(container.exec(['true'])).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringContaining('is not running') });
  });

  test('kills the command and all it started when the time is up', async () => {
    await using container = await runContainer(runtimePath);
    const script = 'sleep 901 & (sleep 902 &) ; setsid sleep 903 & trap "" TERM; sh -c "sleep 904 & wait"; echo not reached';
    const before = countFds();
    await expect(container.shell(script, { timeoutMs: 300 })).rejects.toMatchObject({
      kind: 'deadlineExceeded',
      message: expect.stringMatching(/^exec in container [0-9a-f]+: command "sh -c sleep 901 .* timed out after 0\.3 s$/),
    });
    await expectClean(container);
    expect(countFds()).toBe(before);
  });

  test('kills the command when the caller has gone', async () => {
    await using container = await runContainer(runtimePath);
    for (const delayMs of [0, 2, 5, 10, 15, 20, 25, 30, 100]) {
      const controller = new AbortController();
      const reason = new Error('client left');
      setTimeout(() => controller.abort(reason), delayMs);
      await expect(container.shell('sleep 905 & (sleep 906 &); sleep 911', { signal: controller.signal })).rejects.toBe(reason);
      await expectClean(container);
    }
  });

  test('does not wait for what a command left in the background without its pipes', async () => {
    await using container = await runContainer(runtimePath);
    const result = await container.shell('sleep 907 >/dev/null 2>&1 & echo started');
    expect([String(result.stdout), result.exitCode]).toEqual(['started\n', 0]);
    expect(container.bundle.cgroupProcs()).toHaveLength(2);
  });

  test('comes back when a command left a holder of its pipes in the background', async () => {
    await using container = await runContainer(runtimePath);
    const result = await container.shell('sleep 908 & echo started; exit 3');
    expect([String(result.stdout), result.exitCode]).toEqual(['started\n', 3]);
  });

  test('keeps what the end of a pipeline prints after the command itself', async () => {
    await using container = await runContainer(runtimePath);
    const result = await container.shell('{ sleep 0.05; echo late; } & echo now');
    expect(String(result.stdout)).toBe('now\nlate\n');
  });

  test('leaves no file descriptor, process or file after 200 commands, ten at a time', async () => {
    await using container = await runContainer(runtimePath);
    await container.exec(['true']);
    const before = countFds();
    for (let round = 0; round < 20; round += 1) {
      const results = await Promise.all(Array.from({ length: 10 }, (_, index) => container.shell(`echo ${index}; exit ${index}`)));
      expect(results.map(({ stdout, exitCode }) => [String(stdout), exitCode])).toEqual(results.map((_, index) => [`${index}\n`, index]));
    }
    expect(countFds()).toBe(before);
    await expectClean(container);
  });
});

describe('execSync() without a working runtime', () => {
  async function runFake(script: string): Promise<Running> {
    const container = await runContainer('/usr/bin/crun');
    const runtimePath = join(container.bundle.directory, 'fake-runtime');
    writeFileSync(runtimePath, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const target = { ...container.target, runtimePath };
    return { ...container, target, exec: (command, options = {}) => execSync(target, command, { timeoutMs: 0, signal: never, ...options }) };
  }

  test('kills a runtime that hangs, with its children', async () => {
    await using container = await runFake('sleep 909 & sleep 910');
    await expect(container.exec(['true'], { timeoutMs: 200 })).rejects.toMatchObject({ kind: 'deadlineExceeded' });
    expect([...processesWith('sleep\0' + '909'), ...processesWith('sleep\0' + '910')]).toEqual([]);
    await expectClean(container);
  });

  test('tells when the runtime was killed', async () => {
    await using container = await runFake('kill -9 $$');
    await expect(container.exec(['true'])).rejects.toMatchObject({ kind: 'unknown', message: expect.stringContaining('fake-runtime was killed by SIGKILL') });
  });

  test('fails when the runtime is missing or the command empty', async () => {
    await using container = await runContainer('/usr/bin/crun');
    const before = countFds();
    const target = { ...container.target, runtimePath: '/nonexistent/crun' };
    await expect(execSync(target, ['true'], { timeoutMs: 0, signal: never })).rejects.toThrow('runtime /nonexistent/crun could not be started');
    await expect(container.exec([])).rejects.toMatchObject({ kind: 'invalidArgument' });
    await expect(container.exec(['true'], { signal: AbortSignal.abort(new Error('gone')) })).rejects.toThrow('gone');
    expect(countFds()).toBe(before);
    await expectClean(container);
  });
});
