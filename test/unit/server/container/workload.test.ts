import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLog } from '#base/log.ts';
import { bundleFiles } from '../../../../conmon/args.ts';
import { deleteWorkload } from '../../../../server/container/workload.ts';

test('deleteWorkload() waits for the monitor of a creation that broke off, and takes away its exit file', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-workload-'));
  const [exits, bundle] = [join(dir.path, 'exits'), join(dir.path, 'bundle')];
  for (const path of [exits, bundle]) mkdirSync(path);
  // As conmon does: the exit file comes a moment after the container's end.
  const monitor = spawn('sh', ['-c', 'sleep 0.3; echo 137 >"$0"', join(exits, 'c1'), '-b', bundle], { stdio: 'ignore' });
  const ended = once(monitor, 'exit');
  writeFileSync(bundleFiles(bundle).monitorPid, String(monitor.pid));
  const parts = {
    runtimes: new Map(),
    cgroups: { kill: async () => {}, remove: async () => {}, execs: { remove: async () => {} } },
    paths: { exits, bundle: () => bundle },
    log: silentLog,
  };
  await deleteWorkload(parts as never, { id: 'c1', handler: 'crun', cgroup: '/c1' }, AbortSignal.timeout(20_000));
  await ended;
  expect(existsSync(join(exits, 'c1'))).toBe(false);
});
