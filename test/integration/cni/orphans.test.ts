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
    await endOrphanedPlugins(new Set([mine]));
    expect(isAlive(first)).toBe(false);
    expect(isAlive(stranger)).toBe(true);
  } finally {
    await endOrphanedPlugins(new Set([other]));
  }
  expect(isAlive(stranger)).toBe(false);
});
