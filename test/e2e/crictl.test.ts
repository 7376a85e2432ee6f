import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, inject, test } from 'vitest';
import { crictlFor } from '../support/crictl.ts';
import { type Handler, startDaemon } from '../support/daemon.ts';
import { BUSYBOX } from '../support/images.ts';
import { until } from '../support/wait.ts';

test.each<Handler>(['crun', 'runc'])('the real crictl drives a pod with %s from the first command to the last', async (handler) => {
  await using daemon = await startDaemon({ handler, registry: inject('registry') });
  const crictl = crictlFor(daemon);
  if (crictl === undefined) return;
  const logs = join(daemon.directory, 'logs');
  const podFile = join(daemon.directory, 'pod.json');
  const containerFile = join(daemon.directory, 'container.json');
  writeFileSync(
    podFile,
    JSON.stringify({
      metadata: { name: 'shop', namespace: 'default', uid: 'u1', attempt: 0 },
      log_directory: logs,
      linux: { cgroup_parent: `${daemon.cgroup}/podu1` },
    }),
  );
  writeFileSync(
    containerFile,
    JSON.stringify({ metadata: { name: 'till' }, image: { image: BUSYBOX }, command: ['sh', '-c', 'echo open; sleep 1000'], log_path: 'till.log', linux: {} }),
  );

  expect(await crictl('version')).toMatch(/RuntimeName:\s+berth[\s\S]*RuntimeApiVersion:\s+v1/);
  const info = JSON.parse(await crictl('info'));
  expect(info.status.conditions).toMatchObject([
    { type: 'RuntimeReady', status: true },
    { type: 'NetworkReady', status: true },
  ]);
  await crictl('pull', BUSYBOX);
  expect(await crictl('images')).toMatch(/e2e-test-images\/busybox\s+1\.29-2/);

  const podId = (await crictl('runp', '--runtime', handler, podFile)).trim();
  const containerId = (await crictl('create', podId, containerFile, podFile)).trim();
  expect((await crictl('start', containerId)).trim()).toBe(containerId);
  expect(await crictl('ps', '-q', '--no-trunc')).toBe(`${containerId}\n`);
  expect(await crictl('pods', '-q', '--no-trunc', '--name', 'shop', '--state', 'ready')).toBe(`${podId}\n`);
  expect((await crictl('exec', '--sync', containerId, 'echo', 'sold')).trim()).toBe('sold');
  await until('the log', async () => (await crictl('logs', containerId)) === 'open\n');
  expect(JSON.parse(await crictl('inspect', containerId)).status).toMatchObject({ id: containerId, state: 'CONTAINER_RUNNING' });
  expect(JSON.parse(await crictl('inspectp', podId)).status).toMatchObject({ id: podId, state: 'SANDBOX_READY' });
  expect(JSON.parse(await crictl('stats', '-o', 'json')).stats).toMatchObject([{ attributes: { id: containerId } }]);
  expect(JSON.parse(await crictl('statsp', '-o', 'json')).stats).toMatchObject([{ attributes: { id: podId } }]);
  expect(JSON.parse(await crictl('imagefsinfo')).status.imageFilesystems).toHaveLength(1);

  const following = crictl('logs', '-f', containerId);
  await crictl('stop', '-t', '1', containerId);
  expect(await following).toBe('open\n');
  expect(await crictl('ps', '-a', '-q', '--no-trunc', '--state', 'exited')).toBe(`${containerId}\n`);
  await crictl('rm', containerId);
  await crictl('stopp', podId);
  expect(await crictl('pods', '-q', '--no-trunc', '--state', 'notready')).toBe(`${podId}\n`);
  await crictl('rmp', podId);
  await crictl('rmi', BUSYBOX);
  expect(await crictl('ps', '-a', '-q')).toBe('');
  expect(await crictl('pods', '-q')).toBe('');
  expect(await crictl('images', '-q')).toBe('');
});
