import { mkdir, mkdtempDisposable, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createCgroups } from '../../../../server/oci/cgroup.ts';

const signal = new AbortController().signal;

/** Directories are cgroups enough for what is made and removed. */
async function hierarchies() {
  const dir = await mkdtempDisposable(join(tmpdir(), 'berth-cgroup-'));
  const mounts = new Map(['memory', 'pids'].map((name) => [name, join(dir.path, name)]));
  for (const mount of mounts.values()) await mkdir(mount);
  const list = async (): Promise<string[]> => (await readdir(dir.path, { recursive: true })).sort();
  return { cgroups: createCgroups({ version: 1, mounts }), list, [Symbol.asyncDispose]: () => dir.remove() };
}

test('remove() takes the children along, and what is gone for removed', async () => {
  await using world = await hierarchies();
  await world.cgroups.create('/pod/one/inner');
  await world.cgroups.create('/pod/two');
  await world.cgroups.remove('/pod');
  await world.cgroups.remove('/pod');
  expect(await world.list()).toEqual(['memory', 'pids']);
});

test.each(['/', '', '//', '/.', '/a/..', 'relative', '/..', '/a/../b'])('remove() and kill() refuse %j', async (path) => {
  await using world = await hierarchies();
  const { cgroups } = world;
  const refusal = expect.objectContaining({ kind: 'failedPrecondition' });
  await expect(cgroups.remove(path)).rejects.toThrow(refusal);
  await expect(cgroups.kill(path, { signal })).rejects.toThrow(refusal);
});

test('procs() is empty, and kill() has nothing to do, when the cgroup is gone', async () => {
  await using world = await hierarchies();
  expect(world.cgroups.procs('/gone')).toEqual([]);
  await world.cgroups.kill('/gone', { signal });
});
