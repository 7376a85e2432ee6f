import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { chmod, mkdir, mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { expect, test } from 'vitest';
import { mount } from '#base/sys.ts';
import { removeCgroup } from '../../../../server/oci/cgroup-fs.ts';
import { detectHierarchy, mountPoints } from '../../../../server/oci/cgroup-hierarchy.ts';
import { createOciRuntime } from '../../../../server/oci/runtime.ts';
import { type TrialCgroup, tryFeatures } from '../../../../server/oci/trial.ts';
import { findTool } from '../../../support/tool.ts';

const signal = new AbortController().signal;
const program = findTool('catatonit') ?? '';

const runsc = findTool('runsc');
if (runsc === undefined) console.warn('SKIPPED: a trial of a runtime that leaves its cgroups: runsc is not installed');

const hierarchy = detectHierarchy();

/** As the daemon's, for a test that has its files in `directory`. */
function trialCgroup(directory: string): TrialCgroup & { readonly lasts: () => boolean } {
  const path = `/${basename(directory)}`;
  return {
    cgroupsPath: path,
    remove: () => removeCgroup(hierarchy, path),
    lasts: () => mountPoints(hierarchy).some((mountPoint) => existsSync(join(mountPoint, path))),
  };
}

const handlers = ['crun', 'runc', 'runc-new'].flatMap((handler) => {
  const path = findTool(handler);
  return path === undefined ? [] : [{ handler, path }];
});

test.each(handlers)('tryFeatures() finds with $handler what it says itself, where it does', async ({ handler, path }) => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-trial-'));
  await chmod(dir.path, 0o711); // as the daemon's root: a user of a namespace has to get through
  const runtime = createOciRuntime({ handler, path, root: join(dir.path, 'state'), systemdCgroup: false });
  const directory = join(dir.path, 'trial');
  const cgroup = trialCgroup(dir.path);
  const found = await tryFeatures(runtime, { directory, program, cgroup, signal });
  expect(cgroup.lasts()).toBe(false);
  const told = await runtime.features({ signal });
  if (told.answered)
    expect(found).toEqual({ ...told, netDevices: false }); // which is not tried
  else expect(found).toMatchObject({ answered: true, recursiveReadOnlyMounts: true });
  expect(existsSync(directory)).toBe(false);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(dir.path);
});

test.skipIf(runsc === undefined)('tryFeatures() removes the cgroups that gVisor leaves', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-trial-'));
  await chmod(dir.path, 0o711);
  const path = join(dir.path, 'runsc');
  writeFileSync(path, `#!/bin/sh\nexec ${runsc} --platform=ptrace --network=host "$@"\n`, { mode: 0o755 });
  const runtime = createOciRuntime({ handler: 'runsc', path, root: join(dir.path, 'state'), systemdCgroup: false });
  const cgroup = trialCgroup(dir.path);
  let left = false;
  const remove = async (): Promise<void> => {
    left = cgroup.lasts();
    await cgroup.remove();
  };
  await tryFeatures(runtime, { directory: join(dir.path, 'trial'), program, cgroup: { ...cgroup, remove }, signal });
  expect({ left, lasts: cgroup.lasts() }).toEqual({ left: true, lasts: false });
});

test('tryFeatures() finds nothing with a runtime that makes no containers, and clears what an earlier trial left', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-trial-'));
  const directory = join(dir.path, 'trial');
  await mkdir(join(directory, 'outer'), { recursive: true });
  mount('trial', join(directory, 'outer'), 'tmpfs');
  const runtime = createOciRuntime({ handler: 'none', path: '/bin/false', root: join(dir.path, 'state'), systemdCgroup: false });
  const found = await tryFeatures(runtime, { directory, program, cgroup: trialCgroup(dir.path), signal });
  expect(found).toEqual({ answered: true, recursiveReadOnlyMounts: false, idmappedMounts: false, userNamespaces: false, netDevices: false });
  expect(existsSync(directory)).toBe(false);
});
