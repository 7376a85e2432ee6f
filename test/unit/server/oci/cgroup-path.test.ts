import { expect, test } from 'vitest';
import { cgroupAnnotations, containerCgroup, parentCgroup } from '../../../../server/oci/cgroup-path.ts';

test('containerCgroup() puts cgroupfs containers right below the parent', () => {
  expect(containerCgroup('cgroupfs', '/kubepods/burstable/podx', 'abc')).toEqual({
    cgroupsPath: '/kubepods/burstable/podx/abc',
    path: '/kubepods/burstable/podx/abc',
    parent: '/kubepods/burstable/podx',
  });
});

test('containerCgroup() makes systemd scopes in the slice that the path ends with', () => {
  const expected = {
    cgroupsPath: 'kubepods-burstable-podx.slice:berth:abc',
    path: '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/berth-abc.scope',
    parent: '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice',
  };
  expect(containerCgroup('systemd', '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice', 'abc')).toEqual(expected);
  expect(containerCgroup('systemd', 'kubepods-burstable-podx.slice', 'abc')).toEqual(expected);
});

test('containerCgroup() has a parent of its own for who names none', () => {
  expect(containerCgroup('cgroupfs', '', 'abc')).toEqual({ cgroupsPath: '/berth/abc', path: '/berth/abc', parent: '/berth' });
  expect(containerCgroup('systemd', '', 'abc')).toEqual({
    cgroupsPath: 'system.slice:berth:abc',
    path: '/system.slice/berth-abc.scope',
    parent: '/system.slice',
  });
});

test('containerCgroup() takes the root', () => {
  expect(containerCgroup('cgroupfs', '/', 'abc')).toEqual({ cgroupsPath: '/abc', path: '/abc', parent: '/' });
  expect(containerCgroup('systemd', '-.slice', 'abc')).toEqual({ cgroupsPath: '-.slice:berth:abc', path: '/berth-abc.scope', parent: '/' });
});

test.each([
  ['/a//b/', '/a/b'],
  ['/a/./b', '/a/b'],
])('parentCgroup() of cgroupfs makes %j into %j', (given, path) => {
  expect(parentCgroup('cgroupfs', given)).toBe(path);
});

test.each([
  ['cgroupfs', 'kubepods', 'not an absolute path'],
  ['cgroupfs', '/a/../..', 'must not hold'],
  ['cgroupfs', '/kubepods.slice', 'systemd slice'],
  ['cgroupfs', 'kubepods.slice', 'not an absolute path'],
  ['systemd', '/kubepods/burstable', 'not a slice'],
  ['systemd', 'a--b.slice', 'not a valid slice'],
  ['systemd', '-a.slice', 'not a valid slice'],
  ['systemd', '.slice', 'not a valid slice'],
  ['systemd', 'a:b c.slice', 'not a valid slice'],
  ['systemd', '..', 'not a slice'],
] as const)('parentCgroup() of %s refuses %j and names the field', (driver, given, why) => {
  expect(() => parentCgroup(driver, given)).toThrow(
    expect.objectContaining({ kind: 'invalidArgument', message: expect.stringMatching(`^linux.cgroup_parent: .*${why}`) }),
  );
});

test('cgroupAnnotations() lifts the limit of tasks that systemd sets by itself', () => {
  expect(cgroupAnnotations('pods.slice:berth:abc')).toEqual({ annotations: { 'org.systemd.property.TasksMax': 'uint64 18446744073709551615' } });
  expect(cgroupAnnotations('/pods/abc')).toEqual({});
});
