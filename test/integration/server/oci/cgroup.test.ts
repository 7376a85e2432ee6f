import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdtempDisposable, readFile, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sleep } from '#base/abort.ts';
import { createCgroups } from '../../../../server/oci/cgroup.ts';
import { type CgroupHierarchy, detectHierarchy, mountPoints } from '../../../../server/oci/cgroup-hierarchy.ts';
import { createMonitorCgroup } from '../../../../server/oci/cgroup-monitor.ts';
import { mark } from '../../../support/mark.ts';
import { until } from '../../../support/wait.ts';

const signal = new AbortController().signal;
const machine = detectHierarchy();
const unified = machine.mounts.get('unified');

/** The machine's own hierarchies, and on a hybrid machine the unified one alone: a version 2 without controllers. */
const hierarchies: [string, CgroupHierarchy][] = [
  [`version ${machine.version}`, machine],
  ...(machine.version === 1 && unified !== undefined
    ? [['version 2 alone', { version: 2, mounts: new Map([['unified', unified]]) }] as [string, CgroupHierarchy]]
    : []),
];

let serial = 0;

/** A cgroup path of this test file; whatever is in it ends with the test. */
function ownCgroup(hierarchy: CgroupHierarchy) {
  serial += 1;
  const top = `/${mark()}/${serial}`;
  const cgroups = createCgroups(hierarchy);
  const children: ChildProcess[] = [];
  /** Starts a shell in the cgroup. `ignoring` signals is what stubborn programs do. */
  const start = async (path: string, script = 'sleep 1000'): Promise<number> => {
    const child = spawn('/bin/sh', ['-c', `read go; ${script}`], { stdio: ['pipe', 'ignore', 'ignore'] });
    children.push(child);
    await once(child, 'spawn');
    await cgroups.moveProcess(path, child.pid ?? 0);
    child.stdin?.write('go\n');
    return child.pid ?? 0;
  };
  return {
    cgroups,
    top,
    start,
    [Symbol.asyncDispose]: async () => {
      await cgroups.kill(top, { signal });
      for (const child of children) if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      await cgroups.remove(top);
      await cgroups.removeEmpty(`/${mark()}`, `/${mark()}`);
    },
  };
}

test.each(hierarchies)('create(), moveProcess() and procs() work on %s', async (_name, hierarchy) => {
  await using own = ownCgroup(hierarchy);
  const inner = `${own.top}/a/b`;
  expect(await own.cgroups.firstMissing(inner)).toBe(`/${mark()}`);
  await own.cgroups.create(inner);
  expect(own.cgroups.procs(own.top)).toEqual([]);
  const pid = await own.start(inner, 'sleep 1000 & sleep 1000');
  await until('the shell to start two', () => own.cgroups.procs(own.top).length === 3);
  expect(own.cgroups.procs(own.top)).toContain(pid);
  expect(own.cgroups.procs(inner)).toHaveLength(3);
  const there = await readFile(`/proc/${pid}/cgroup`, 'utf8');
  expect(there.split('\n').filter((line) => line.endsWith(`:${inner}`))).toHaveLength(mountPoints(hierarchy).length);
  await expect(own.cgroups.remove(inner)).rejects.toThrow('EBUSY');
});

test.each(hierarchies)('kill() ends a tree that forks and ignores signals, on %s', async (_name, hierarchy) => {
  await using own = ownCgroup(hierarchy);
  await own.cgroups.create(`${own.top}/a`);
  await own.cgroups.create(`${own.top}/b`);
  await own.start(`${own.top}/a`, 'trap "" TERM HUP INT; while :; do (sleep 0.2; sleep 0.2) & sleep 0.05; done');
  await own.start(`${own.top}/b`, 'setsid sleep 1000 & wait');
  await until('them to be several', () => own.cgroups.procs(own.top).length > 4);
  await own.cgroups.kill(own.top, { signal });
  expect(own.cgroups.procs(own.top)).toEqual([]);
  await own.cgroups.remove(own.top);
  await own.cgroups.kill(own.top, { signal });
  expect(await own.cgroups.stats(own.top)).toBeUndefined();
});

test.runIf(machine.mounts.has('freezer'))('kill() ends what is frozen', async () => {
  await using own = ownCgroup(machine);
  await own.cgroups.create(own.top);
  await own.start(own.top);
  await writeFile(join(machine.mounts.get('freezer') ?? '', own.top, 'freezer.state'), 'FROZEN');
  await own.cgroups.kill(own.top, { signal });
  expect(own.cgroups.procs(own.top)).toEqual([]);
});

test('kill() refuses a cgroup that the daemon itself is in', async () => {
  const own = (await readFile('/proc/self/cgroup', 'utf8')).split('\n').map((line) => line.split(':').at(-1) ?? '');
  const path = own.find((name) => name.startsWith('/') && name !== '/');
  if (path === undefined) return; // it is in the root, which is refused anyway
  await expect(createCgroups(machine).kill(path, { signal })).rejects.toThrow('the daemon itself is in it');
});

test('stats() and oomKills() read what the kernel counts', async () => {
  await using own = ownCgroup(machine);
  await own.cgroups.create(`${own.top}/c`);
  // tail holds what may yet turn out to be the last line; the shell's loop takes CPU
  await own.start(`${own.top}/c`, 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; { head -c 30000000 /dev/zero; sleep 1000; } | tail -n 1');
  const held = 24 * 1024 * 1024;
  const stats = await until('the memory to be taken', async () => {
    const now = await own.cgroups.stats(own.top);
    return now !== undefined && now.memory.rssBytes > held ? now : undefined;
  });
  expect(stats.memory.usageBytes).toBeGreaterThan(held);
  expect(stats.memory.workingSetBytes).toBeGreaterThan(held);
  expect(stats.memory.pageFaults).toBeGreaterThan(1000);
  expect(stats.cpuUsageNs).toBeGreaterThan(1_000_000n);
  expect(stats.pids).toBeGreaterThan(0);
  expect(stats.memory.limitBytes).toBeUndefined();
  expect(await own.cgroups.oomKills(`${own.top}/c`)).toBe(0);
});

test('oomKills() counts a process that got too large', async () => {
  await using own = ownCgroup(machine);
  await own.cgroups.create(own.top);
  const dir = join(machine.mounts.get(machine.version === 2 ? 'unified' : 'memory') ?? '', own.top);
  const limitBytes = 16 * 1024 * 1024;
  await writeFile(join(dir, machine.version === 2 ? 'memory.max' : 'memory.limit_in_bytes'), String(limitBytes));
  expect((await own.cgroups.stats(own.top))?.memory.limitBytes).toBe(limitBytes);
  await own.start(own.top, 'x=$(tr "\\0" x < /dev/zero)');
  await until('the OOM killer', async () => ((await own.cgroups.oomKills(own.top)) ?? 0) > 0);
});

test.runIf(unified !== undefined)('stats() has the pressure of version 2', async () => {
  await using own = ownCgroup({ version: 2, mounts: new Map([['unified', unified ?? '']]) });
  await own.cgroups.create(own.top);
  await own.start(own.top, 'while :; do :; done');
  const stats = await until('some CPU time', async () => {
    const now = await own.cgroups.stats(own.top);
    return now !== undefined && now.cpuUsageNs > 0n ? now : undefined;
  });
  expect(stats.psi?.cpu?.some.avg300).toBeGreaterThanOrEqual(0);
});

test('createMonitorCgroup() places monitors at an absolute path, below the own cgroup, or nowhere', async () => {
  await using own = ownCgroup(machine);
  await own.cgroups.create(`${own.top}/start`);
  const pid = await own.start(`${own.top}/start`);
  const cgroupsOf = async (): Promise<string[]> => [
    ...new Set(
      (await readFile(`/proc/${pid}/cgroup`, 'utf8'))
        .trim()
        .split('\n')
        .filter((line) => !line.includes(':name=berth:')) // the hierarchy of executed commands, which monitors are none of
        .map((line) => line.split(':')[2] ?? ''),
    ),
  ];

  await (await createMonitorCgroup(machine, '')).place(pid);
  expect(await cgroupsOf()).toEqual([`${own.top}/start`]);
  await (await createMonitorCgroup(machine, `${own.top}/monitors`)).place(pid);
  expect(await cgroupsOf()).toEqual([`${own.top}/monitors`]);

  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-monitor-'));
  const selfCgroup = join(dir.path, 'cgroup');
  await writeFile(selfCgroup, (await readFile('/proc/self/cgroup', 'utf8')).replace(/:[^:\n]*$/gm, `:${own.top}/unit`));
  const delegated = await createMonitorCgroup(machine, 'monitors', { selfCgroup });
  await delegated.place(pid);
  expect(await cgroupsOf()).toEqual([`${own.top}/unit/monitors`]);

  await own.cgroups.kill(own.top, { signal });
  await until('the process to be gone', () =>
    access(`/proc/${pid}`).then(
      () => false,
      () => true,
    ),
  );
  await delegated.place(pid);
});

test.each(hierarchies)('remove() leaves a scope to systemd for a while, on %s', async (_name, hierarchy) => {
  await using own = ownCgroup(hierarchy);
  const scope = `${own.top}/berth-x.scope`;
  const dirs = mountPoints(hierarchy).map((mount) => join(mount, scope));
  await own.cgroups.create(scope);
  const removing = own.cgroups.remove(scope);
  await sleep(500);
  await Promise.all(dirs.map((dir) => rmdir(dir))); // as systemd does; it would fail if they were gone
  await removing;
  await own.cgroups.create(scope);
  await own.cgroups.remove(scope);
  await Promise.all(dirs.map((dir) => expect(access(dir)).rejects.toThrow('ENOENT')));
});
