import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, mkdtempDisposable, readFile, symlink, writeFile } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { newId } from '#base/id.ts';
import { createCgroups } from '../../../../server/oci/cgroup.ts';
import { detectHierarchy } from '../../../../server/oci/cgroup-hierarchy.ts';
import { containerCgroup } from '../../../../server/oci/cgroup-path.ts';
import { createOciRuntime } from '../../../../server/oci/runtime.ts';
import { mark } from '../../../support/mark.ts';
import { findTool } from '../../../support/tool.ts';
import { until } from '../../../support/wait.ts';

const signal = new AbortController().signal;
const cgroups = createCgroups(detectHierarchy());
const handlers = ['crun', 'runc'].flatMap((handler) => {
  const path = findTool(handler);
  if (path === undefined) console.warn(`SKIPPED: ${handler} is not installed`);
  return path === undefined ? [] : [{ handler, path }];
});

/** A created container that sleeps; conmon's part is played by a plain `create`. */
async function createdContainer({ handler, path }: { handler: string; path: string }, args: readonly string[] = ['sleep', '1000']) {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await mkdtempDisposable(join(tmpdir(), 'berth-oci-')));
  const rootfs = join(dir, 'rootfs');
  for (const name of ['bin', 'dev', 'proc']) await mkdir(join(rootfs, name), { recursive: true });
  await copyFile(findTool('busybox') ?? '/bin/busybox', join(rootfs, 'bin/busybox'));
  for (const name of ['sh', 'sleep']) await symlink('busybox', join(rootfs, 'bin', name));
  const id = newId();
  const cgroup = containerCgroup('cgroupfs', `/${mark()}/pod`, id);
  const topmost = await cgroups.firstMissing(cgroup.parent);
  stack.defer(async () => {
    if (topmost !== undefined) await cgroups.removeEmpty(cgroup.parent, topmost);
  });
  const spec = {
    ociVersion: '1.0.2',
    root: { path: rootfs },
    process: { user: { uid: 0, gid: 0 }, cwd: '/', env: ['PATH=/bin'], args, capabilities: {} },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
    linux: { cgroupsPath: cgroup.cgroupsPath, namespaces: ['pid', 'mount', 'network'].map((type) => ({ type })) },
  };
  await writeFile(join(dir, 'config.json'), JSON.stringify(spec));
  const runtime = createOciRuntime({ handler, path, root: join(dir, 'state'), systemdCgroup: false });
  stack.defer(() => runtime.delete(id, { signal, force: true }));
  const create = spawn(path, [...runtime.globalArgs(), 'create', '--bundle', dir, id], { stdio: ['ignore', 'ignore', 'inherit'] });
  const [code] = await once(create, 'exit');
  expect(code).toBe(0);
  const kept = stack.move();
  return { runtime, id, cgroup, dir, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

test.each(handlers)('$handler goes through the states of a container, and every verb may be repeated', async (tool) => {
  await using container = await createdContainer(tool);
  const { runtime, id, cgroup } = container;
  const created = await runtime.state(id, { signal });
  expect(created).toEqual({ status: 'created', pid: expect.any(Number) });
  expect(cgroups.procs(cgroup.path)).toEqual([created?.pid]);

  await runtime.start(id, { signal });
  expect(await runtime.state(id, { signal })).toEqual({ status: 'running', pid: created?.pid });
  await expect(runtime.start(id, { signal })).rejects.toThrow(`${tool.handler} start ${id}: `);
  await expect(runtime.delete(id, { signal })).rejects.toThrow(`${tool.handler} delete ${id}: `);

  await runtime.kill(id, 9, { signal });
  await until('it to be stopped', async () => (await runtime.state(id, { signal }))?.status === 'stopped');
  await runtime.kill(id, 9, { signal });

  await runtime.delete(id, { signal });
  expect(await runtime.state(id, { signal })).toBeUndefined();
  await runtime.delete(id, { signal });
  await runtime.delete(id, { signal, force: true });
  await runtime.kill(id, 9, { signal });
  expect(await cgroups.stats(cgroup.path)).toBeUndefined();
});

test.each(handlers)('$handler passes a signal to the first process only', async (tool) => {
  const listen = (name: string, then: string): string => `trap "echo got >> /${name}" USR1; ${then}; while :; do sleep 0.05; done`;
  const script = listen('first', `sh -c '${listen('second', 'touch /ready')}' &`);
  await using container = await createdContainer(tool, ['sh', '-c', `exec 2>/dev/null; ${script.replace('&;', '&')}`]);
  const { runtime, id, dir } = container;
  const read = (name: string): Promise<string | undefined> => readFile(join(dir, 'rootfs', name), 'utf8').catch(() => undefined);
  await runtime.start(id, { signal });
  await until('both to listen', async () => (await read('ready')) !== undefined);
  await runtime.kill(id, constants.signals.SIGUSR1, { signal });
  await until('the first to hear', async () => (await read('first')) === 'got\n');
  expect(await read('second')).toBeUndefined();
});

test.each(handlers)('$handler deletes a running container by force', async (tool) => {
  await using container = await createdContainer(tool);
  const { runtime, id, cgroup } = container;
  await runtime.start(id, { signal });
  await runtime.delete(id, { signal, force: true });
  expect(await runtime.state(id, { signal })).toBeUndefined();
  expect(cgroups.procs(cgroup.path)).toEqual([]);
});

test.each(handlers)('$handler says so when asked for the state of a container it has made by half, and force removes it', async (tool) => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-oci-'));
  const runtime = createOciRuntime({ ...tool, root: dir.path, systemdCgroup: false });
  const id = newId();
  expect(await runtime.state(id, { signal })).toBeUndefined();
  await mkdir(join(dir.path, id));
  await expect(runtime.state(id, { signal })).rejects.toThrow(`${tool.handler} state ${id}: `);
  await runtime.delete(id, { signal, force: true });
  expect(await runtime.state(id, { signal })).toBeUndefined();
});

test.each(handlers)('$handler tells its version, and its features or that it does not know them', async (tool) => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-oci-'));
  const runtime = createOciRuntime({ ...tool, root: join(dir.path, 'state'), systemdCgroup: false });
  expect(await runtime.version({ signal })).toMatch(new RegExp(`^${tool.handler} version \\d+\\.\\d+`));
  const features = await runtime.features({ signal });
  if (features.answered) expect(features.recursiveReadOnlyMounts).toBe(true);
  else expect(features.userNamespaces).toBe(false);
});
