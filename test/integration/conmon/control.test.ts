import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, test } from 'vitest';
import { sleep } from '#base/abort.ts';
import { isAlive, signalProcess } from '#base/process.ts';
import { reopenLog, resize } from '../../../conmon/conmon.ts';
import { countFds, gone, makeBundle, type TestBundle, until } from './bundle.ts';

const CRUN = '/usr/bin/crun';
const options = { signal: new AbortController().signal, timeoutMs: 5_000 };
const reopen = ({ spec, logPath }: TestBundle) => reopenLog(spec.bundle, logPath, options);

/** The lines that the container has printed, from log files in the order of their rotation; pieces of a line are put together. */
function printed(files: readonly string[]): string[] {
  const records = files.flatMap((file) => readFileSync(file, 'utf8').split('\n').filter(Boolean));
  const text = records.map((record) => {
    const [, , tag, ...words] = record.split(' ');
    return `${words.join(' ')}${tag === 'F' ? '\n' : ''}`;
  });
  return text.join('').split('\n').filter(Boolean);
}

describe('reopenLog()', () => {
  test('loses no line of a container that prints while its log is rotated again and again', async () => {
    await using bundle = await makeBundle(CRUN, { args: ['sh', '-c', 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done'] });
    const { monitor } = await bundle.startAndRun();
    const rotated: string[] = [];
    while (isAlive(monitor)) {
      const old = `${bundle.logPath}.${rotated.length}`;
      renameSync(bundle.logPath, old);
      rotated.push(old);
      try {
        await reopen(bundle);
      } catch (err) {
        // The container ended, and its monitor with it, which has no command line any more a moment before it is gone.
        await gone(monitor).catch(() => {
          throw err;
        });
      }
      await sleep(5);
    }
    const files = existsSync(bundle.logPath) ? [...rotated, bundle.logPath] : rotated;
    expect(rotated.length).toBeGreaterThan(2);
    expect(printed(files)).toEqual(Array.from({ length: 20_000 }, (_line, index) => `line ${index + 1}`));
  });

  test('does nothing when the log was not renamed', async () => {
    await using bundle = await makeBundle(CRUN, { args: ['sh', '-c', 'echo precious; sleep 1000'] });
    await bundle.startAndRun();
    await until(() => readFileSync(bundle.logPath, 'utf8').includes('precious'), 'the line');
    const before = statSync(bundle.logPath).ino;
    await reopen(bundle);
    expect(statSync(bundle.logPath).ino).toBe(before);
    expect(printed([bundle.logPath])).toEqual(['precious']);
  });

  test('makes the log anew when it was removed', async () => {
    await using bundle = await makeBundle(CRUN);
    await bundle.startAndRun();
    rmSync(bundle.logPath);
    await reopen(bundle);
    expect(statSync(bundle.logPath).size).toBe(0);
  });

  test('fails, and spares the monitor, when the directory of the log is missing', async () => {
    await using bundle = await makeBundle(CRUN);
    const { monitor } = await bundle.startAndRun();
    rmSync(dirname(bundle.logPath), { recursive: true });
    await expect(reopen(bundle)).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringContaining('its directory is missing') });
    expect(isAlive(monitor)).toBe(true);
  });

  test.each([
    ['a directory', (path: string) => mkdirSync(path)],
    ['a link', (path: string) => symlinkSync('/dev/full', path)],
  ])('fails, and spares the monitor, when the temporary name is taken by %s', async (_what, take) => {
    await using bundle = await makeBundle(CRUN);
    const { monitor } = await bundle.startAndRun();
    rmSync(bundle.logPath);
    take(`${bundle.logPath}.tmp`);
    await expect(reopen(bundle)).rejects.toMatchObject({ kind: 'failedPrecondition' });
    expect(isAlive(monitor)).toBe(true);
  });

  test('fails when the monitor is dead', async () => {
    await using bundle = await makeBundle(CRUN);
    const { monitor } = await bundle.startAndRun();
    signalProcess(monitor, 'SIGKILL');
    await gone(monitor);
    await expect(reopen(bundle)).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringContaining('no monitor runs') });
    await expect(resize(bundle.spec.bundle, 80, 25)).rejects.toMatchObject({ kind: 'failedPrecondition' });
  });

  test('gives up after its time when the monitor does not answer, and leaves no command behind', async () => {
    await using bundle = await makeBundle(CRUN, { args: ['sh', '-c', 'while true; do echo tick; sleep 0.01; done'] });
    const { monitor } = await bundle.startAndRun();
    signalProcess(monitor, 'SIGSTOP');
    renameSync(bundle.logPath, `${bundle.logPath}.old`);
    const before = countFds();
    await expect(reopenLog(bundle.spec.bundle, bundle.logPath, { ...options, timeoutMs: 50 })).rejects.toMatchObject({ kind: 'deadlineExceeded' });
    await expect(reopenLog(bundle.spec.bundle, bundle.logPath, { ...options, signal: AbortSignal.timeout(50) })).rejects.toThrow('timeout');
    expect(countFds()).toBe(before);
    signalProcess(monitor, 'SIGCONT');
    const size = statSync(`${bundle.logPath}.old`).size;
    await until(() => statSync(`${bundle.logPath}.old`).size > size, 'the monitor to go on with the old file');
    expect(existsSync(bundle.logPath)).toBe(false);
    await reopen(bundle);
    await until(() => statSync(bundle.logPath).size > 0, 'the monitor to go on with the new file');
  });
});

test('resize() sets the size of the terminal, within what conmon takes', async () => {
  await using bundle = await makeBundle(CRUN, { args: ['sh', '-c', 'while true; do stty size; sleep 0.01; done'], terminal: true });
  await bundle.startAndRun();
  await resize(bundle.spec.bundle, 132, 43);
  await until(() => printed([bundle.logPath]).some((line) => line.startsWith('43 132')), 'the new size');
  await resize(bundle.spec.bundle, 65_535, 7);
  await until(() => printed([bundle.logPath]).some((line) => line.startsWith('7 1000')), 'the largest size');
});
