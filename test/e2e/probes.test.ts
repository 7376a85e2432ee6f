import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, inject, test } from 'vitest';
import { sleep } from '#base/abort.ts';
import { readProcessStat } from '#base/process.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { startContainer, startPod } from '../support/pod.ts';
import { until } from '../support/wait.ts';

/** BERTH_TEST_FULL=1: a hundred containers, each probed every second for two minutes. Otherwise a taste of it. */
const FULL = process.env.BERTH_TEST_FULL === '1';
const [CONTAINERS, SECONDS] = FULL ? [100, 120] : [10, 10];
const MiB = 1024;

/** What the daemon holds: memory in KiB, open files, children. */
function holds(daemon: Daemon) {
  const memory = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${daemon.pid()}/status`, 'utf8'))?.[1]);
  const children = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && readProcessStat(Number(name))?.parentPid === daemon.pid());
  return { memory, files: readdirSync(`/proc/${daemon.pid()}/fd`).length, children: children.length };
}

test(
  'probes at the rate of a full node leave no process, no open file and no memory behind',
  async () => {
    // A heap with little room: what grows then is held, and not just not collected yet.
    const env = { NODE_OPTIONS: '--max-semi-space-size=1 --max-old-space-size=64' };
    await using daemon = await startDaemon({ handler: 'crun', registry: inject('registry'), env });
    const { pod, podId } = await startPod(daemon);
    const ids: string[] = [];
    for (let index = 0; index < CONTAINERS; index += 1) ids.push((await startContainer(daemon, pod, podId, { name: `c${index}` })).containerId);
    const probe = async (container_id: string): Promise<void> => {
      const { exit_code, stdout } = await daemon.cri.ExecSync({ container_id, cmd: ['sh', '-c', 'echo ready'], timeout: '60' });
      expect([exit_code, stdout.toString()]).toEqual([0, 'ready\n']);
    };
    const failing = (container_id: string) => daemon.cri.ExecSync({ container_id, cmd: ['sh', '-c', 'sleep 2201 & (sleep 2202 &); sleep 2203'], timeout: '1' });
    for (const id of ids) await probe(id); // what is loaded once is loaded
    const before = holds(daemon);
    const began = performance.now();
    for (let second = 1; second <= SECONDS; second += 1) {
      await Promise.all(ids.map(probe));
      await sleep(Math.max(0, began + second * 1_000 - performance.now()));
    }
    const rate = (CONTAINERS * SECONDS) / ((performance.now() - began) / 1_000);
    for (const id of ids.slice(0, 5)) await expect(failing(id)).rejects.toThrow('timed out');
    const after = await until('nothing to be held any more', () => {
      const now = holds(daemon);
      return now.files <= before.files && now.children <= before.children && now;
    });
    console.info(`${CONTAINERS * SECONDS} probes, ${rate.toFixed(0)}/s: ${JSON.stringify({ before, after })}`);
    expect(after.memory - before.memory).toBeLessThan(40 * MiB);
    for (const id of ids) {
      expect(readdirSync(join(daemon.runroot, 'bundles', id)).filter((name) => name.startsWith('exec-'))).toEqual([]);
      const { stdout } = await daemon.cri.ExecSync({ container_id: id, cmd: ['ps', '-o', 'args'], timeout: '60' });
      expect(stdout.toString()).not.toContain('sleep 220');
      const again = await daemon.cri.ExecSync({ container_id: id, cmd: ['cat', '/proc/self/cgroup'], timeout: '60' });
      expect(again.stdout.toString()).toContain('berth-exec-0'); // the one that the first probe had
    }
  },
  FULL ? 900_000 : 180_000,
);
