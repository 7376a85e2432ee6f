import { spawn } from 'node:child_process';
import { expect, test } from 'vitest';
import { identifyProcess, isAlive, type ProcessIdentity } from '#base/process.ts';
import { endOrphanedPlugins } from '../../../cni/cni.ts';

function plugin(id: string): ProcessIdentity {
  // a shell that ignores TERM, with a child, as a plugin with its IPAM would be
  const { pid = 0 } = spawn('sh', ['-c', 'trap "" TERM; sleep 300 & wait; sleep 300'], {
    env: { PATH: process.env.PATH, CNI_CONTAINERID: id },
    stdio: 'ignore',
    detached: true,
  });
  return identifyProcess(pid) as ProcessIdentity;
}

test('endOrphanedPlugins() kills plugins of the named pods with their children, and no others', async () => {
  const [mine, other] = [`a${process.pid}`, `b${process.pid}`];
  const [first, stranger] = [plugin(mine), plugin(other)];
  try {
    await endOrphanedPlugins(new Set([mine]), { graceMs: 100 });
    expect(isAlive(first)).toBe(false);
    expect(isAlive(stranger)).toBe(true);
  } finally {
    await endOrphanedPlugins(new Set([other]), { graceMs: 0 });
  }
  expect(isAlive(stranger)).toBe(false);
});

test('endOrphanedPlugins() lets a plugin come to its end that does so soon', async () => {
  const id = `c${process.pid}`;
  const ended = new Promise((resolve) => {
    spawn('sh', ['-c', 'sleep 0.3; exit 7'], { env: { PATH: process.env.PATH, CNI_CONTAINERID: id }, stdio: 'ignore' }).on('exit', resolve);
  });
  await endOrphanedPlugins(new Set([id]), { graceMs: 20_000 });
  expect(await ended).toBe(7);
});
