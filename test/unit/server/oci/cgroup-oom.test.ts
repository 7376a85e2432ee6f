import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { createCgroups } from '../../../../server/oci/cgroup.ts';

/** Hierarchies made of these files: `unified/pod/c/memory.max`. */
async function world(version: 1 | 2, files: Readonly<Record<string, string>>) {
  const dir = await mkdtempDisposable(join(tmpdir(), 'berth-oom-'));
  for (const [file, text] of Object.entries(files)) {
    await mkdir(dirname(join(dir.path, file)), { recursive: true });
    await writeFile(join(dir.path, file), `${text}\n`);
  }
  const controller = version === 2 ? 'unified' : 'memory';
  return { cgroups: createCgroups({ version, mounts: new Map([[controller, join(dir.path, controller)]]) }), [Symbol.asyncDispose]: () => dir.remove() };
}

test.each([
  ['the container', { 'unified/pod/c/memory.events.local': 'oom 1\noom_kill 1', 'unified/pod/memory.events.local': 'oom 2\noom_kill 0' }, '/pod/c'],
  ["crun's own level of it", { 'unified/pod/c/memory.events.local': 'oom 0', 'unified/pod/c/container/memory.events.local': 'oom 1' }, '/pod/c'],
  ['the pod', { 'unified/pod/c/memory.events.local': 'oom 0\noom_kill 1', 'unified/pod/memory.events.local': 'oom 1' }, '/pod'],
  ['nobody', { 'unified/pod/c/memory.events.local': 'oom 0\noom_kill 1', 'unified/pod/memory.events.local': 'oom 0' }, undefined],
])('reachedLimit() with version 2 is the innermost that counted: %s', async (_who, files, path) => {
  await using w = await world(2, files);
  expect((await w.cgroups.reachedLimit('/pod/c'))?.path).toBe(path);
});

test('reachedLimit() tells limit and peak where the kernel does', async () => {
  const events = { 'unified/pod/c/memory.events.local': 'oom 1' };
  await using w = await world(2, { ...events, 'unified/pod/c/memory.max': '1000', 'unified/pod/c/memory.peak': '999' });
  expect(await w.cgroups.reachedLimit('/pod/c')).toEqual({ path: '/pod/c', limitBytes: 1000, peakBytes: 999 });
  await using old = await world(2, { ...events, 'unified/pod/c/memory.max': 'max' });
  expect(await old.cgroups.reachedLimit('/pod/c')).toEqual({ path: '/pod/c', limitBytes: undefined, peakBytes: undefined });
});

const NONE = '9223372036854771712';

test('reachedLimit() with version 1 is the innermost limit that was come up to, memory alone or with swap', async () => {
  const memory = (dir: string, counter: string, limit: string, peak: string) => ({
    [`memory/${dir}/${counter}.limit_in_bytes`]: limit,
    [`memory/${dir}/${counter}.max_usage_in_bytes`]: peak,
  });
  await using far = await world(1, { ...memory('pod/c', 'memory', '90000000', '1000'), ...memory('pod', 'memory', '50000000', '50000000') });
  expect(await far.cgroups.reachedLimit('/pod/c')).toEqual({ path: '/pod', limitBytes: 50_000_000, peakBytes: 50_000_000 });
  await using swap = await world(1, { ...memory('pod/c', 'memory', '90000000', '1000'), ...memory('pod/c', 'memory.memsw', '95000000', '94990000') });
  expect(await swap.cgroups.reachedLimit('/pod/c')).toEqual({ path: '/pod/c', limitBytes: 95_000_000, peakBytes: 94_990_000 });
  await using none = await world(1, { ...memory('pod/c', 'memory', NONE, '90000000'), ...memory('pod', 'memory', NONE, '90000000') });
  expect(await none.cgroups.reachedLimit('/pod/c')).toBeUndefined();
});

test('ownOoms() counts those of the limit itself, and is not known with version 1', async () => {
  await using w = await world(2, { 'unified/pod/memory.events.local': 'low 0\noom 3\noom_kill 5' });
  expect(await w.cgroups.ownOoms('/pod')).toBe(3);
  expect(await w.cgroups.ownOoms('/gone')).toBeUndefined();
  await using old = await world(1, {});
  expect(await old.cgroups.ownOoms('/pod')).toBeUndefined();
});
