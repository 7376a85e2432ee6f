import { mkdir, mkdtempDisposable, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createCgroups } from '../../../../server/oci/cgroup.ts';

/** Directories are cgroups enough for what is made and removed. */
async function hierarchies() {
  const dir = await mkdtempDisposable(join(tmpdir(), 'berth-cgroup-'));
  const hierarchy = { version: 1, mounts: new Map(['memory', 'pids'].map((name) => [name, join(dir.path, name)])) } as const;
  for (const mount of hierarchy.mounts.values()) await mkdir(mount);
  const list = async (): Promise<string[]> => (await readdir(join(dir.path, 'memory'), { recursive: true })).sort();
  return { restart: () => createCgroups(hierarchy), list, [Symbol.asyncDispose]: () => dir.remove() };
}

test('firstMissing() is the topmost level that has to be made', async () => {
  await using world = await hierarchies();
  await world.restart().create('/a');
  expect(await world.restart().firstMissing('/a/b/c')).toBe('/a/b');
  expect(await world.restart().firstMissing('/b/c')).toBe('/b');
  expect(await world.restart().firstMissing('/a')).toBeUndefined();
  expect(await world.restart().firstMissing('/')).toBeUndefined();
});

test('removeEmpty() removes what was made and no more, and may be repeated', async () => {
  await using world = await hierarchies();
  const cgroups = world.restart();
  await cgroups.create('/kubelet');
  const made = (await cgroups.firstMissing('/kubelet/pod/deep')) ?? '';
  await cgroups.create('/kubelet/pod/deep');
  await cgroups.removeEmpty('/kubelet/pod/deep', made);
  expect(await world.list()).toEqual(['kubelet']);
  await cgroups.removeEmpty('/kubelet/pod/deep', made);
  expect(await cgroups.firstMissing('/kubelet')).toBeUndefined();
});

test('removeEmpty() leaves a level that another pod uses, and the last pod takes it', async () => {
  await using world = await hierarchies();
  const cgroups = world.restart();
  const one = (await cgroups.firstMissing('/berth/one')) ?? '';
  await cgroups.create('/berth/one');
  const two = (await cgroups.firstMissing('/berth/two')) ?? '';
  await cgroups.create('/berth/two');
  expect([one, two]).toEqual(['/berth', '/berth']);
  await cgroups.removeEmpty('/berth/one', one);
  expect(await world.list()).toEqual(['berth', 'berth/two']);
  await cgroups.removeEmpty('/berth/two', two);
  expect(await world.list()).toEqual([]);
});

test('firstMissing() knows after adopt() what an earlier process made', async () => {
  await using world = await hierarchies();
  const made = (await world.restart().firstMissing('/berth/pods')) ?? '';
  const restarted = world.restart();
  await restarted.create('/berth/pods/other');
  restarted.adopt('/berth/pods', made);
  expect(await restarted.firstMissing('/berth/pods')).toBe('/berth');
  expect(await restarted.firstMissing('/berth/pods/other')).toBeUndefined();
});

test('firstMissing() leaves a pod that someone else made below a level of ours alone', async () => {
  await using world = await hierarchies();
  const cgroups = world.restart();
  await cgroups.firstMissing('/kubepods/ours');
  await cgroups.create('/kubepods/kubelets');
  expect(await cgroups.firstMissing('/kubepods/kubelets')).toBeUndefined();
});

test('removeEmpty() does not mistake a longer name for a child', async () => {
  await using world = await hierarchies();
  const cgroups = world.restart();
  await cgroups.create('/berth-two');
  await cgroups.removeEmpty('/berth-two', '/berth');
  expect(await world.list()).toEqual(['berth-two']);
});

test.each(['/', '', '/..', 'relative'])('removeEmpty() refuses %j', async (path) => {
  await using world = await hierarchies();
  await expect(world.restart().removeEmpty(path, path)).rejects.toThrow(expect.objectContaining({ kind: 'failedPrecondition' }));
});
