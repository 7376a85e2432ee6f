import { mkdirSync, mkdtempDisposableSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { NO_EXEC_CGROUP, openExecCgroups } from '../../../../server/oci/exec-cgroup.ts';

/** A tree of plain files that looks like cgroup v2; `named` cgroups are there already, with these pids. */
function fakeV2(named: Readonly<Record<string, string>>) {
  const root = mkdtempDisposableSync(join(tmpdir(), 'berth-exec-cgroup-'));
  mkdirSync(join(root.path, 'pod/c'), { recursive: true });
  for (const [path, pids] of Object.entries(named)) {
    mkdirSync(join(root.path, 'pod/c', path), { recursive: true });
    writeFileSync(join(root.path, 'pod/c', path, 'cgroup.procs'), pids);
    writeFileSync(join(root.path, 'pod/c', path, 'cgroup.subtree_control'), path.endsWith('2') ? 'memory\n' : '\n');
    writeFileSync(join(root.path, 'pod/c', path, 'cgroup.type'), 'domain\n');
  }
  const cgroups = openExecCgroups({ version: 2, mounts: new Map([['unified', root.path]]) }, '/nonexistent');
  return { cgroups, [Symbol.dispose]: () => root.remove() };
}

const container = { id: 'c', cgroup: '/pod/c', byRuntime: true };

test('take() gives the first cgroup that no command has and no process is in, and it is free again when it is disposed of', () => {
  using fake = fakeV2({ 'berth-exec-0': '', 'berth-exec-1': '4711\n4712\n', 'berth-exec-2': '', 'berth-exec-3': '' }); // 2 passes controllers on
  const first = fake.cgroups.take(container);
  expect([first.name, first.runtimeArgs, first.place, first.procs()]).toEqual(['berth-exec-0', ['--cgroup=/berth-exec-0'], undefined, []]);
  using second = fake.cgroups.take(container);
  expect(second.name).toBe('berth-exec-3');
  first[Symbol.dispose]();
  using third = fake.cgroups.take(container);
  expect(third.name).toBe('berth-exec-0');
  expect(fake.cgroups.find(container, 'berth-exec-1').procs()).toEqual([4711, 4712]);
});

test("take() goes below crun's own level where there is one", () => {
  using fake = fakeV2({ 'container/berth-exec-0': '' });
  expect(fake.cgroups.take(container).runtimeArgs).toEqual(['--cgroup=/berth-exec-0']);
});

test.each([
  ['the OCI runtime cannot put it there', { ...container, byRuntime: false }],
  ['the container has gone', { ...container, cgroup: '/pod/gone' }],
])('take() gives none where %s', (_why, asking) => {
  using fake = fakeV2({ 'berth-exec-0': '' });
  expect(fake.cgroups.take(asking)).toBe(NO_EXEC_CGROUP);
});
