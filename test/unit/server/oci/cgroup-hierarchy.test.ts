import { mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { detectHierarchy, mountPoints } from '../../../../server/oci/cgroup-hierarchy.ts';

async function detect(lines: readonly string[]) {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-mountinfo-'));
  const path = join(dir.path, 'mountinfo');
  await writeFile(path, `${lines.join('\n')}\n`);
  return detectHierarchy(path);
}

const ROOT = '22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw';
const UNIFIED = '30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot';
const HYBRID = [
  ROOT,
  '31 25 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw',
  '32 25 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd',
  '35 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct',
  '36 25 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory',
  '37 25 0:32 / /another/memory rw - cgroup cgroup rw,memory',
  '38 25 0:33 / /with\\040blank/pids rw - cgroup cgroup rw,pids',
];

test('detectHierarchy() finds the unified hierarchy', async () => {
  const hierarchy = await detect([ROOT, UNIFIED]);
  expect(hierarchy).toEqual({ version: 2, mounts: new Map([['unified', '/sys/fs/cgroup']]) });
});

test('detectHierarchy() takes a hybrid machine for version 1, with its empty unified hierarchy', async () => {
  const hierarchy = await detect(HYBRID);
  expect(hierarchy.version).toBe(1);
  expect(Object.fromEntries(hierarchy.mounts)).toEqual({
    unified: '/sys/fs/cgroup/unified',
    'name=systemd': '/sys/fs/cgroup/systemd',
    cpu: '/sys/fs/cgroup/cpu,cpuacct',
    cpuacct: '/sys/fs/cgroup/cpu,cpuacct',
    memory: '/sys/fs/cgroup/memory',
    pids: '/with blank/pids',
  });
  expect(mountPoints(hierarchy)).toHaveLength(5);
});

test('detectHierarchy() takes a machine whose only v1 mount is a name for version 2', async () => {
  const hierarchy = await detect([UNIFIED, '32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd']);
  expect(hierarchy).toEqual({ version: 2, mounts: new Map([['unified', '/sys/fs/cgroup']]) });
});

test('detectHierarchy() fails when nothing is mounted', async () => {
  await expect(detect([ROOT])).rejects.toThrow(expect.objectContaining({ kind: 'failedPrecondition' }));
});
