import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { CommandError, run, spawnProcess } from '#base/exec.ts';
import { Pipe } from '#base/pipe.ts';
import { isAlive, readProcessStat } from '#base/process.ts';

/** Of this run alone. */
const SECONDS = 1_000_000 + process.pid;
const long = AbortSignal.timeout(60_000);

test.each([true, false])('run() hands over output and input (hot %s)', async (hot) => {
  const text = 'x'.repeat(300_000);
  expect((await run('cat', [], { signal: long, input: text, hot })).stdout).toBe(text);
  expect((await run('cat', [], { signal: long, input: 'small', hot })).stdout).toBe('small');
  expect(await run('sh', ['-c', 'echo out; echo err >&2'], { signal: long, hot })).toEqual({ stdout: 'out\n', stderr: 'err\n' });
});

test.each([true, false])('run() gives a child PATH, what it was given, and nothing else (hot %s)', async (hot) => {
  const { stdout } = await run('env', [], { signal: long, env: { A: 'b c' }, hot });
  expect(stdout.trim().split('\n').sort()).toEqual(['A=b c', 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin']);
});

test.each([true, false])('run() fails with what is needed to repeat the command (hot %s)', async (hot) => {
  const failed = run('sh', ['-c', 'echo why >&2; exit 7'], { signal: long, hot });
  await expect(failed).rejects.toThrow(CommandError);
  await expect(failed).rejects.toMatchObject({ exitCode: 7, stderr: 'why\n', message: "command failed with exit code 7: sh -c 'echo why >&2; exit 7': why" });
});

test.each([true, false])('run() tells that a command is missing, and which (hot %s)', async (hot) => {
  await expect(run('/nonexistent/tool', ['x'], { signal: long, hot })).rejects.toThrow(/could not be started \(.*ENOENT.*\): \/nonexistent\/tool x/);
});

test.each([true, false])('run() tells which signal killed a command (hot %s)', async (hot) => {
  await expect(run('sh', ['-c', 'kill -SEGV $$'], { signal: long, hot })).rejects.toThrow('command was killed by SIGSEGV');
});

test.each([true, false])('run() kills the command with its children when aborted (hot %s)', async (hot) => {
  const abort = new AbortController();
  const running = run('sh', ['-c', `sleep ${SECONDS} & wait`], { signal: abort.signal, hot });
  running.catch(() => {});
  await expect.poll(() => sleepers().length).toBe(1);
  const [child] = sleepers();
  abort.abort(new Error('enough'));
  await expect(running).rejects.toThrow('enough');
  await expect.poll(() => child !== undefined && isAlive(child)).toBe(false);
});

test.each([true, false])('run() ends a command that prints too much (hot %s)', async (hot) => {
  await expect(run('yes', [], { signal: long, maxOutputBytes: 1_000_000, hot })).rejects.toThrow('command printed too much');
});

test('spawnProcess() gives a session of its own, default signals and only the fds that were asked for', async () => {
  using out = new Pipe();
  const script = 'grep -E "^(SigIgn|SigBlk)" /proc/self/status; ls /proc/self/fd | tr "\\n" " "';
  const child = await spawnProcess('sh', ['-c', script], { stdio: ['ignore', out.writeEnd, 'ignore'], cwd: '/' });
  out.closeWrite();
  expect(readProcessStat(child.pid)?.sessionId ?? child.pid).toBe(child.pid);
  let text = '';
  for await (const chunk of out.stream()) text += chunk;
  expect(await child.exited).toEqual({ exitCode: 0, signal: undefined });
  expect(text).toMatch(/SigBlk:\s+0{16}\nSigIgn:\s+0{16}\n0 1 2 3 $/); // 3 is the directory that ls reads
});

test('run() leaves no fd behind, whatever the end', async () => {
  await run('true', [], { signal: long, hot: true });
  const before = readdirSync('/proc/self/fd').length;
  for (let round = 0; round < 20; round += 1) {
    await run('true', [], { signal: long, hot: true, input: 'x' });
    await run('false', [], { signal: long, hot: true }).catch(() => {});
    await run('/nonexistent', [], { signal: long, hot: true, input: 'x' }).catch(() => {});
  }
  expect(readdirSync('/proc/self/fd').length).toBe(before);
});

test.each([3, 65_536, 300_000])('Pipe.fill() hands over all of %i bytes and closes', async (bytes) => {
  using pipe = new Pipe();
  using held = new Pipe();
  const child = await spawnProcess('sh', ['-c', 'wc -c </proc/self/fd/3'], { stdio: ['ignore', held.writeEnd, 'ignore', pipe.readEnd] });
  held.closeWrite();
  pipe.closeRead();
  pipe.fill('x'.repeat(bytes));
  let text = '';
  for await (const chunk of held.stream()) text += chunk;
  expect([text.trim(), (await child.exited).exitCode]).toEqual([String(bytes), 0]);
});

test.each([3, 300_000])('Pipe.fill() with %i bytes does not mind a reader that has gone', (bytes) => {
  using pipe = new Pipe();
  pipe.closeRead();
  pipe.fill('x'.repeat(bytes));
  expect(() => pipe.writeEnd).toThrow('closed');
});

function sleepers() {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => readProcessStat(Number(name)) ?? [])
    .filter((stat) => stat.state !== 'Z' && commandOf(stat.pid) === ['sleep', SECONDS, ''].join('\0'));
}

function commandOf(pid: number): string {
  try {
    return process.getBuiltinModule('node:fs').readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}
