import { mkdir, mkdtempDisposable, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { createCgroups } from '../../../../server/oci/cgroup.ts';

/** A directory with the files of one cgroup, `/pod/c`, in hierarchies of the given names. */
async function cgroupWith(version: 1 | 2, controllers: readonly string[], files: Readonly<Record<string, string>>) {
  const dir = await mkdtempDisposable(join(tmpdir(), 'berth-cgroup-'));
  const mounts = new Map(controllers.map((name) => [name, join(dir.path, name)]));
  for (const [file, text] of Object.entries(files)) {
    const [controller = '', name = ''] = file.split('/');
    const path = join(dir.path, controller, 'pod/c', name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }
  return { cgroups: createCgroups({ version, mounts }), dir: dir.path, [Symbol.asyncDispose]: () => dir.remove() };
}

const V2 = {
  'unified/cpu.stat': 'usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n',
  'unified/memory.current': '10000000\n',
  'unified/memory.stat': 'anon 4000000\nfile 6000000\ninactive_file 2500000\nactive_file 3500000\npgfault 120\npgmajfault 3\n',
  'unified/memory.max': '20000000\n',
  'unified/memory.swap.current': '4096\n',
  'unified/memory.swap.max': '8192\n',
  'unified/memory.events': 'low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n',
  'unified/pids.current': '7\n',
  'unified/cpu.pressure': 'some avg10=1.50 avg60=0.30 avg300=0.10 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n',
  'unified/memory.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n',
  'unified/io.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n',
};

const V1 = {
  'cpuacct/cpuacct.usage': '123456789012345678\n',
  'memory/memory.usage_in_bytes': '10000000\n',
  'memory/memory.stat': 'cache 1\nrss 1\ninactive_file 1\ntotal_rss 4000000\ntotal_pgfault 120\ntotal_pgmajfault 3\ntotal_inactive_file 2500000\n',
  'memory/memory.limit_in_bytes': '20000000\n',
  'memory/memory.memsw.usage_in_bytes': '10004096\n',
  'memory/memory.memsw.limit_in_bytes': '20008192\n',
  'memory/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 4\n',
  'pids/pids.current': '7\n',
};

const MEMORY = {
  usageBytes: 10_000_000,
  workingSetBytes: 7_500_000,
  rssBytes: 4_000_000,
  pageFaults: 120,
  majorPageFaults: 3,
  limitBytes: 20_000_000,
  availableBytes: 12_500_000,
};

test('stats() reads version 2', async () => {
  await using world = await cgroupWith(2, ['unified'], V2);
  expect(await world.cgroups.stats('/pod/c')).toEqual({
    timestampNs: expect.any(BigInt),
    cpuUsageNs: 1_500_000_000n,
    memory: MEMORY,
    swap: { usageBytes: 4096, availableBytes: 4096 },
    pids: 7,
    psi: {
      cpu: { some: { avg10: 1.5, avg60: 0.3, avg300: 0.1, totalUs: 12_345n }, full: { avg10: 0, avg60: 0, avg300: 0, totalUs: 0n } },
      memory: { some: { avg10: 0, avg60: 0, avg300: 0, totalUs: 5n }, full: { avg10: 0, avg60: 0, avg300: 0, totalUs: 4n } },
      io: { some: { avg10: 0, avg60: 0, avg300: 0, totalUs: 9n }, full: undefined },
    },
  });
});

test('stats() reads version 1', async () => {
  await using world = await cgroupWith(1, ['cpuacct', 'memory', 'pids'], V1);
  expect(await world.cgroups.stats('/pod/c')).toEqual({
    timestampNs: expect.any(BigInt),
    cpuUsageNs: 123_456_789_012_345_678n,
    memory: MEMORY,
    swap: { usageBytes: 4096, availableBytes: 4096 },
    pids: 7,
    psi: undefined,
  });
});

test('stats() has no limit and nothing available where there is none', async () => {
  const unlimited = { limitBytes: undefined, availableBytes: undefined };
  await using two = await cgroupWith(2, ['unified'], { ...V2, 'unified/memory.max': 'max\n', 'unified/memory.swap.max': 'max\n' });
  expect(await two.cgroups.stats('/pod/c')).toMatchObject({ memory: unlimited, swap: { usageBytes: 4096, availableBytes: undefined } });
  const none = '9223372036854771712\n';
  await using one = await cgroupWith(1, ['cpuacct', 'memory', 'pids'], {
    ...V1,
    'memory/memory.limit_in_bytes': none,
    'memory/memory.memsw.limit_in_bytes': none,
  });
  expect(await one.cgroups.stats('/pod/c')).toMatchObject({ memory: unlimited, swap: { usageBytes: 4096, availableBytes: undefined } });
});

test('stats() is never below zero', async () => {
  await using world = await cgroupWith(1, ['cpuacct', 'memory', 'pids'], {
    ...V1,
    'memory/memory.usage_in_bytes': '1000\n',
    'memory/memory.memsw.usage_in_bytes': '900\n',
    'memory/memory.limit_in_bytes': '500\n',
  });
  expect(await world.cgroups.stats('/pod/c')).toMatchObject({ memory: { workingSetBytes: 0, availableBytes: 500 }, swap: { usageBytes: 0 } });
});

test('stats() counts a controller that is not there as 0', async () => {
  await using two = await cgroupWith(2, ['unified'], { 'unified/cpu.stat': V2['unified/cpu.stat'] });
  expect(await two.cgroups.stats('/pod/c')).toMatchObject({ cpuUsageNs: 1_500_000_000n, memory: { usageBytes: 0 }, pids: 0, psi: { cpu: undefined } });
  await using one = await cgroupWith(1, ['cpuacct', 'memory'], { 'cpuacct/cpuacct.usage': '5\n' });
  expect(await one.cgroups.stats('/pod/c')).toMatchObject({ cpuUsageNs: 5n, memory: { usageBytes: 0 }, pids: 0 });
});

test.each([
  [2, ['unified'], V2],
  [1, ['cpuacct', 'memory', 'pids'], V1],
] as const)('stats() and oomKills() of version %i are undefined once the cgroup is gone', async (version, controllers, files) => {
  await using world = await cgroupWith(version, controllers, files);
  expect(await world.cgroups.oomKills('/pod/c')).toBe(version === 2 ? 1 : 4);
  for (const controller of controllers) await rm(join(world.dir, controller, 'pod'), { recursive: true });
  expect(await world.cgroups.stats('/pod/c')).toBeUndefined();
  expect(await world.cgroups.oomKills('/pod/c')).toBeUndefined();
});

test('stats() takes the limit of the level that crun puts below a scope', async () => {
  await using world = await cgroupWith(2, ['unified'], { ...V2, 'unified/memory.max': 'max\n', 'unified/memory.swap.max': 'max\n' });
  expect((await world.cgroups.stats('/pod/c'))?.memory.limitBytes).toBeUndefined();
  await mkdir(join(world.dir, 'unified/pod/c/container'));
  await writeFile(join(world.dir, 'unified/pod/c/container/memory.max'), '20000000\n');
  await writeFile(join(world.dir, 'unified/pod/c/container/memory.swap.max'), '8192\n');
  expect(await world.cgroups.stats('/pod/c')).toMatchObject({ memory: MEMORY, swap: { usageBytes: 4096, availableBytes: 4096 } });
});

test('lostOomKills() is what the cgroup above has counted and none of its others accounts for', async () => {
  await using world = await cgroupWith(2, ['unified'], V2);
  const pod = join(world.dir, 'unified/pod');
  expect(await world.cgroups.lostOomKills('/pod/gone')).toBeUndefined();
  await writeFile(join(pod, 'memory.events'), 'oom 9\noom_kill 7\n');
  await mkdir(join(pod, 'd'));
  await writeFile(join(pod, 'd/memory.events'), 'oom 4\noom_kill 4\n');
  expect(await world.cgroups.lostOomKills('/pod/gone')).toBe(2);
  expect(await world.cgroups.lostOomKills('/pod/c')).toBe(3); // its own one as well
  expect(await world.cgroups.lostOomKills('/top')).toBeUndefined(); // the root has no count
});

test('lostOomKills() is not known with version 1, which does not count upwards', async () => {
  await using world = await cgroupWith(1, ['memory'], V1);
  expect(await world.cgroups.lostOomKills('/pod/c')).toBeUndefined();
});
