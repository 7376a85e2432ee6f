import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { holdRoot } from '../../../server/instance.ts';

test('holdRoot() lets one in, tells the next whose the root is, and knows a clean stop', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-root-'));
  {
    await using first = await holdRoot(dir.path);
    expect(first.stoppedCleanly).toBe(true);
    await expect(holdRoot(dir.path)).rejects.toMatchObject({
      kind: 'failedPrecondition',
      message: `root ${dir.path}: another berth daemon works on it, with the pid ${process.pid}`,
    });
    // By another name too.
    await expect(holdRoot(`${dir.path}/../${dir.path.split('/').at(-1)}`)).rejects.toThrow('another berth daemon');
  }
  await using second = await holdRoot(dir.path);
  expect(second.stoppedCleanly).toBe(true);
});

test('holdRoot() gets the root of a daemon that was killed, and says so', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-root-'));
  const program = `const { holdRoot } = await import(${JSON.stringify(join(import.meta.dirname, '../../../server/instance.ts'))});
    await holdRoot(${JSON.stringify(dir.path)}); console.log('held'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    await once(child.stdout, 'data');
    await expect(holdRoot(dir.path)).rejects.toThrow(`with the pid ${child.pid}`);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await using held = await holdRoot(dir.path);
  expect(held.stoppedCleanly).toBe(false);
});
