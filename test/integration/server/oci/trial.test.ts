import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { mount } from '#base/sys.ts';
import { createOciRuntime } from '../../../../server/oci/runtime.ts';
import { tryFeatures } from '../../../../server/oci/trial.ts';
import { findTool } from '../../../support/tool.ts';

const signal = new AbortController().signal;
const program = findTool('catatonit') ?? '';

const handlers = ['crun', 'runc', 'runc-new'].flatMap((handler) => {
  const path = findTool(handler);
  return path === undefined ? [] : [{ handler, path }];
});

test.each(handlers)('tryFeatures() finds with $handler what it says itself, where it does', async ({ handler, path }) => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-trial-'));
  await chmod(dir.path, 0o711); // as the daemon's root: a user of a namespace has to get through
  const runtime = createOciRuntime({ handler, path, root: join(dir.path, 'state'), systemdCgroup: false });
  const directory = join(dir.path, 'trial');
  const found = await tryFeatures(runtime, { directory, program, signal });
  const told = await runtime.features({ signal });
  if (told.answered)
    expect(found).toEqual({ ...told, netDevices: false }); // which is not tried
  else expect(found).toMatchObject({ answered: true, recursiveReadOnlyMounts: true });
  expect(existsSync(directory)).toBe(false);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(dir.path);
});

test('tryFeatures() finds nothing with a runtime that makes no containers, and clears what an earlier trial left', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-trial-'));
  const directory = join(dir.path, 'trial');
  await mkdir(join(directory, 'outer'), { recursive: true });
  mount('trial', join(directory, 'outer'), 'tmpfs');
  const runtime = createOciRuntime({ handler: 'none', path: '/bin/false', root: join(dir.path, 'state'), systemdCgroup: false });
  const found = await tryFeatures(runtime, { directory, program, signal });
  expect(found).toEqual({ answered: true, recursiveReadOnlyMounts: false, idmappedMounts: false, userNamespaces: false, netDevices: false });
  expect(existsSync(directory)).toBe(false);
});
