import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { CommandError, run } from '#base/exec.ts';
import { type StreamClient, streamClients } from '../support/clients.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { startContainer, startPod } from '../support/pod.ts';
import { openTerminal } from '../support/terminal.ts';
import { until } from '../support/wait.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  let containerId: string;
  let clients: StreamClient[];
  let shellId: string;

  beforeAll(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
    const { pod, podId, containerId: id } = await startPod(daemon);
    containerId = id;
    ({ containerId: shellId } = await startContainer(daemon, pod, podId, { name: 'shell', command: ['sh'], stdin: true, tty: true }));
    clients = streamClients(daemon);
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  const signal = (): AbortSignal => AbortSignal.timeout(90_000);
  const call = ([file, ...args]: readonly [string, ...string[]], input?: string) =>
    run(file, args, { signal: signal(), cwd: daemon.directory, ...(input === undefined ? {} : { input }) });
  const terminal = ([file, ...args]: readonly [string, ...string[]], size = {}) => openTerminal(file, args, { cwd: daemon.directory, ...size });
  /** The container's processes but for the first. */
  const others = async (): Promise<string[]> => {
    const { stdout } = await daemon.cri.ExecSync({ container_id: containerId, cmd: ['ps', '-o', 'args'], timeout: '20' });
    return stdout
      .toString()
      .split('\n')
      .slice(1)
      .filter((line) => !/^(sleep 10000|ps -o args|\/pause.*)?$/.test(line.trim()));
  };

  test('exec passes stdin, both outputs and the exit code', async () => {
    for (const { name, exec } of clients) {
      expect(await call(exec(['-i'], containerId, ['sh', '-c', 'cat; echo wrong >&2']), 'typed\n'), name).toEqual({ stdout: 'typed\n', stderr: 'wrong\n' });
      const failure = await call(exec([], containerId, ['sh', '-c', 'echo before; exit 42'])).catch((err: unknown) => err);
      expect(failure, name).toBeInstanceOf(CommandError);
      const { stdout, stderr, exitCode } = failure as CommandError;
      expect([stdout, name === 'an old client' ? exitCode : stderr], name).toEqual([
        'before\n',
        name === 'an old client' ? 42 : expect.stringContaining('exit code 42'),
      ]);
      await expect(call(exec([], containerId, ['/no/such/program'])), name).rejects.toThrow(/no\/such\/program/);
      await expect(call(exec([], 'f'.repeat(64), ['true'])), name).rejects.toThrow(/does not exist/);
    }
  });

  test('a tar goes in and out unharmed', async () => {
    const source = join(daemon.directory, `tar-${handler}`);
    mkdirSync(source);
    writeFileSync(join(source, 'noise'), randomBytes(20_000_000));
    const sum = createHash('sha256')
      .update(readFileSync(join(source, 'noise')))
      .digest('hex');
    for (const [index, { name, exec }] of clients.entries()) {
      const words = (line: readonly string[]): string => line.map((word) => `'${word}'`).join(' ');
      await call([
        'sh',
        '-c',
        `tar -C ${source} -cf - noise | ${words(exec(['-i'], containerId, ['sh', '-c', `mkdir /in${index} && tar -C /in${index} -xf -`]))}`,
      ]);
      const inside = await daemon.cri.ExecSync({ container_id: containerId, cmd: ['sha256sum', `/in${index}/noise`], timeout: '60' });
      expect(inside.stdout.toString(), name).toContain(sum);
      const back = join(source, `back${index}`);
      mkdirSync(back);
      await call(['sh', '-c', `${words(exec([], containerId, ['tar', '-C', `/in${index}`, '-cf', '-', 'noise']))} | tar -C ${back} -xf -`]);
      expect(
        createHash('sha256')
          .update(readFileSync(join(back, 'noise')))
          .digest('hex'),
        name,
      ).toBe(sum);
    }
  });

  test('a shell in a terminal: size, Ctrl-C, vi, Ctrl-D', async () => {
    for (const [index, { name, exec }] of clients.entries()) {
      await using shell = terminal(exec(['-i', '-t'], containerId, ['sh']), { width: 101, height: 31 });
      await until(`${name}: the prompt`, () => shell.shown().includes('# '));
      await until(`${name}: the size`, async () => /31 101/.test(await shell.answer('stty size\r', /\d+ \d+/)));
      shell.resize(120, 40);
      await until(`${name}: the new size`, async () => /40 120/.test(await shell.answer('stty size\r', /\d+ \d+/)));
      shell.type('sleep 1000\r');
      await until(`${name}: the sleep`, async () => (await others()).includes('sleep 1000'));
      await shell.answer('\x03', /# $/);
      await shell.answer(`vi /vi${index}\r`, /~/);
      await shell.answer('iwritten with vi', /written with vi/);
      await shell.answer('\x1b', /./s); // alone: vi takes what follows at once for the name of a key
      await shell.answer(':wq\r', /# $/);
      expect(await shell.answer(`cat /vi${index}\r`, /vi\r\n.*# $/s), name).toContain('written with vi\r\n');
      shell.type('\x04');
      expect(await shell.ended, name).toBe(0);
    }
    expect(await others()).toEqual([]);
  });

  test('attach reaches the container in its terminal, several clients at once', async () => {
    const [first, ...rest] = clients;
    if (first === undefined) return;
    await using one = terminal(first.attach(['-i', '-t'], shellId), { width: 90, height: 30 });
    await one.answer('echo $((40+2))\r', /42\r\n/);
    for (const { name, attach } of rest) {
      await using two = terminal(attach(['-i', '-t'], shellId), { width: 91, height: 32 });
      await two.answer(`echo ${name.length}-$((6*7))\r`, new RegExp(`${name.length}-42\r\n`));
      await until(`${name}: the same at the other one`, () => one.shown().includes(`${name.length}-42\r\n`));
      await until(`${name}: the size`, async () => /32 91/.test(await two.answer('stty size\r', /\d+ \d+/)));
    }
    await one.answer('echo still here\r', /still here\r\n/);
  });

  test('a client that goes takes its command along', async () => {
    for (const { exec } of clients) {
      for (const flags of [['-i'], ['-i', '-t']]) {
        await using shell = terminal(exec(flags, containerId, ['sh', '-c', 'sleep 2001 & (sleep 2002 &); echo begun; sleep 2003']));
        await until('the command', () => shell.shown().includes('begun'));
        await shell[Symbol.asyncDispose]();
        await until('the end of all of it', async () => (await others()).every((line) => !line.startsWith('sleep 200')));
      }
    }
  });
});
