import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isAlive, signalProcess } from '#base/process.ts';
import { execSession } from '../../../../server/container/exec-session.ts';
import type { ExecTarget } from '../../../../server/container/exec-target.ts';
import { execTerminal } from '../../../../server/container/exec-terminal.ts';
import { countFds, gone, makeBundle, processesWith, RUNTIMES, type TestBundle, until } from '../../conmon/bundle.ts';
import { disposeOf, takeCgroup } from './command-cgroups.ts';
import { type Client, type ClientOptions, GONE, makeClient } from './session.ts';

interface Running extends AsyncDisposable {
  readonly bundle: TestBundle;
  readonly target: ExecTarget;
  /** Begins `sh -c script` with pipes, or with a terminal. */
  readonly shell: (script: string, options?: ClientOptions) => Session;
  readonly exec: (command: readonly string[], options?: ClientOptions) => Session;
}

interface Session extends Client {
  readonly ended: Promise<number>;
}

async function runContainer(runtimePath: string, process: object = {}): Promise<Running> {
  const bundle = await makeBundle(runtimePath, { log: false });
  const { init } = await bundle.startAndRun();
  const { id, runtimeRoot } = bundle.spec;
  const target = {
    id,
    runtimePath,
    runtimeRoot,
    bundle: bundle.spec.bundle,
    init,
    cgroupProcs: bundle.cgroupProcs,
    takeCgroup: takeCgroup(bundle),
    process: { ...bundle.process, ...process },
  };
  const directory = join(bundle.directory, 'x');
  mkdirSync(directory);
  const exec: Running['exec'] = (command, options = {}) => {
    const client = makeClient(options);
    const run =
      options.tty === true
        ? execTerminal(target, command, client.session, { conmonPath: '/usr/bin/conmon', directory })
        : execSession(target, command, client.session);
    run.catch(() => {}); // the test looks at it when it comes to it
    return { ...client, ended: run };
  };
  return { bundle, target, exec, shell: (script, options) => exec(['sh', '-c', script], options), [Symbol.asyncDispose]: () => disposeOf(bundle) };
}

/** Only the container's own process is left, and no file. */
async function expectClean({ bundle, target }: Running): Promise<void> {
  await until(() => bundle.cgroupProcs().length === 1, 'the container to hold nothing but its init');
  expect(bundle.cgroupProcs()).toEqual([target.init.pid]);
  expect(isAlive(target.init)).toBe(true);
  expect(readdirSync(target.bundle).filter((file) => file.startsWith('exec-'))).toEqual([]);
  expect(readdirSync(join(bundle.directory, 'x'), { recursive: true })).toEqual([]);
  await until(() => processesWith('--exec-attach').every((pid) => !commandLine(pid).includes(target.id)), 'the monitor to go');
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

describe.each(RUNTIMES)('execSession() with %s', (runtimePath) => {
  const name = basename(runtimePath);

  test('passes both outputs and the exit code on', async () => {
    await using container = await runContainer(runtimePath);
    const session = container.shell('echo "$MARK"; echo wrong >&2; echo named > /proc/self/fd/1; echo too > /proc/self/fd/2; exit 7');
    expect(await session.ended).toBe(7);
    expect([session.out(), session.err()]).toEqual(['of the container\nnamed\n', 'wrong\ntoo\n']);
    expect(await container.shell('kill -9 $$').ended).toBe(137);
    await expectClean(container);
  });

  test('passes stdin on to its end, and ends when the command does not read it', async () => {
    await using container = await runContainer(runtimePath);
    const data = Buffer.alloc(3_000_000, 'stdin of three million bytes ');
    const session = container.exec(['cat'], { stdin: true });
    session.type(data);
    session.endInput();
    expect(await session.ended).toBe(0);
    expect(session.outBytes()).toBe(data.length);
    expect(session.out()).toBe(data.toString());
    const unread = container.shell('exit 3', { stdin: true });
    unread.type(data);
    expect(await unread.ended).toBe(3);
    await expectClean(container);
  });

  test('opens its pipes by name as another user', async () => {
    await using container = await runContainer(runtimePath, { user: { uid: 1000, gid: 1000 } });
    const session = container.shell('cat /dev/fd/0 /proc/self/fd/0; echo out >/proc/self/fd/1; echo err >/proc/self/fd/2', { stdin: true });
    session.endInput();
    await session.ended;
    expect([session.out(), session.err()]).toEqual(['out\n', expect.stringMatching(/err\n$/)]);
  });

  test.each([false, true])('tells the words of the runtime when the command cannot be executed (terminal: %s)', async (tty) => {
    await using container = await runContainer(runtimePath);
    const before = countFds();
    for (const command of ['nope', '/nope', '/proc']) {
      const session = container.exec([command], { tty });
      await expect(session.ended).rejects.toMatchObject({ name: 'CriError', kind: 'unknown' });
      await expect(session.ended).rejects.toThrow(
        new RegExp(`^exec in container ${container.target.id}: ${name}: .*(nope|proc|not permitted|denied|not found)`),
      );
      expect(session.err()).toBe('');
    }
    await expectClean(container);
    expect(countFds()).toBe(before);
  });

  test.each([false, true])('fails when the container has ended (terminal: %s)', async (tty) => {
    await using container = await runContainer(runtimePath);
    signalProcess(container.target.init, 'SIGKILL');
    await gone(container.target.init);
    await expect(container.exec(['true'], { tty }).ended).rejects.toMatchObject({
      kind: 'failedPrecondition',
      message: expect.stringContaining('is not running'),
    });
  });

  test.each([false, true])('ends with the container (terminal: %s)', async (tty) => {
    await using container = await runContainer(runtimePath);
    const session = container.shell('echo begun; sleep 921', { tty });
    await until(() => session.out().includes('begun'), 'the command to begin');
    signalProcess(container.target.init, 'SIGKILL');
    await session.ended.then(
      (code) => expect([129, 137]).toContain(code),
      (err) => expect(err).toMatchObject({ kind: 'failedPrecondition' }),
    );
  });

  test.each([false, true])('kills the command and all that it started when the client goes (terminal: %s)', async (tty) => {
    await using container = await runContainer(runtimePath);
    const before = countFds();
    for (const delayMs of [0, 2, 5, 10, 15, 20, 30, 200]) {
      const session = container.shell('sleep 922 & (sleep 923 &); trap "" HUP TERM; setsid sleep 924 & sh -c "sleep 925 & wait"', { tty, stdin: true });
      setTimeout(session.leave, delayMs);
      await expect(session.ended).rejects.toBe(GONE);
      await expectClean(container);
    }
    expect(countFds()).toBe(before);
  });

  test('does not wait for what a command leaves in the background with its pipes', async () => {
    await using container = await runContainer(runtimePath);
    const session = container.shell('sleep 926 & echo started; exit 3');
    expect(await session.ended).toBe(3);
    expect(session.out()).toBe('started\n');
  });

  test('holds the command back for a slow client, in little memory, and loses nothing at the end', async () => {
    await using container = await runContainer(runtimePath);
    const MiB = 1024 * 1024;
    const session = container.shell('yes 0123456789abcde | head -c 52428800; echo done >&2', { held: true });
    const rss = (): number => process.memoryUsage().rss;
    const before = rss();
    await until(() => session.session.stdout?.writableNeedDrain ?? false, 'the client to be full');
    expect(session.err()).toBe('');
    expect(rss() - before).toBeLessThan(30 * MiB);
    session.release();
    expect(await session.ended).toBe(0);
    await until(() => session.outBytes() === 50 * MiB, 'all that was printed');
    expect(session.err()).toBe('done\n');
  });

  test('delivers the last output of a command that has ended to a client that is slow', async () => {
    await using container = await runContainer(runtimePath);
    const session = container.shell('head -c 60000 /dev/zero', { held: true });
    await until(() => container.bundle.cgroupProcs().length === 1, 'the command to end');
    await new Promise((resolve) => setTimeout(resolve, 1_500)); // longer than a background holder of the pipes is heard
    session.release();
    expect(await session.ended).toBe(0);
    await until(() => session.outBytes() === 60_000, 'all that was printed');
  });
});

describe.each(RUNTIMES)('execTerminal() with %s', (runtimePath) => {
  // crun 1.8 does not hold the command back until the terminal has its size: it may see none for an instant.
  test('has the size of the client from the beginning and follows it', async () => {
    await using container = await runContainer(runtimePath);
    const script = [
      'while [ "$(stty size)" != "33 99" ]; do :; done',
      'trap \'[ "$(stty size)" = "40 120" ] && exit 5\' WINCH',
      'echo ready',
      'while :; do sleep 0.01; done',
    ];
    const session = container.shell(script.join('; '), { tty: true, size: { width: 99, height: 33 } });
    await until(() => session.out().includes('ready'), 'the command to begin');
    session.resize(120, 40);
    expect(await session.ended).toBe(5);
    await expectClean(container);
  });

  test('takes a size that comes while the monitor starts', async () => {
    await using container = await runContainer(runtimePath);
    const session = container.shell('while [ "$(stty size)" != "25 81" ]; do :; done; exit 6', { tty: true });
    session.resize(81, 25);
    expect(await session.ended).toBe(6);
  });

  test('is a terminal: echo, Ctrl-C, Ctrl-D, TERM', async () => {
    await using container = await runContainer(runtimePath);
    const session = container.shell('trap "echo caught" INT; echo $TERM; sleep 927; cat', { tty: true, stdin: true });
    await until(() => session.out().includes('xterm'), 'the command to begin');
    session.type('\x03');
    await until(() => session.out().includes('caught'), 'the trap');
    session.type('typed\n');
    await until(() => session.out().endsWith('typed\r\ntyped\r\n'), 'echo and answer');
    session.type('\x04');
    expect(await session.ended).toBe(0);
    await expectClean(container);
  });

  test('passes much input and output in order', async () => {
    await using container = await runContainer(runtimePath);
    const text = Array.from({ length: 20_000 }, (_, index) => `line ${index}\n`).join('');
    const session = container.shell(`stty raw -echo; echo ready; head -c ${text.length}`, { tty: true, stdin: true });
    await until(() => session.out().includes('ready\n'), 'the command to begin');
    session.type(text);
    expect(await session.ended).toBe(0);
    expect(session.out().replace(/^ready\r?\n/, '')).toBe(text);
  });

  test('holds the command back for a slow client and loses nothing', async () => {
    await using container = await runContainer(runtimePath);
    const session = container.shell('stty raw; seq 1 400000; exit 4', { tty: true, held: true });
    // Small pieces are held back by their number, before their bytes fill the client.
    let waiting = 0;
    let unchanged = 0;
    await until(() => {
      const writableLength = session.session.stdout?.writableLength ?? 0;
      unchanged = writableLength > 0 && writableLength === waiting ? unchanged + 1 : 0;
      waiting = writableLength;
      return unchanged === 40;
    }, 'the command to be held back');
    expect(session.session.stdout?.writableLength).toBeLessThan(1024 * 1024);
    session.release();
    expect(await session.ended).toBe(4);
    expect(session.out()).toBe(Array.from({ length: 400_000 }, (_, index) => `${index + 1}\n`).join(''));
    await expectClean(container);
  });

  test('fails with the reason when the monitor is missing, cannot listen or dies', async () => {
    await using container = await runContainer(runtimePath);
    const before = countFds();
    const directory = join(container.bundle.directory, 'x');
    const fake = join(container.bundle.directory, 'fake-conmon');
    const attempt = (conmonPath: string) => execTerminal(container.target, ['true'], makeClient({ tty: true }).session, { conmonPath, directory });
    await expect(attempt('/nonexistent/conmon')).rejects.toMatchObject({
      kind: 'failedPrecondition',
      message: expect.stringContaining('/nonexistent/conmon could not be started'),
    });
    writeFileSync(fake, '#!/bin/sh\necho "cannot go on" >&2; exit 1\n', { mode: 0o755 });
    await expect(attempt(fake)).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringContaining('cannot go on') });
    const session = container.shell('echo begun; sleep 928', { tty: true });
    await until(() => session.out().includes('begun'), 'the command to begin');
    for (const pid of processesWith('--exec-attach').filter((found) => commandLine(found).includes(container.target.id))) process.kill(pid, 'SIGKILL');
    await expect(session.ended).rejects.toMatchObject({ kind: 'unknown' });
    await expectClean(container);
    expect(countFds()).toBe(before);
  });
});
