import { mkdtempDisposable, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { negotiate, PluginVersions } from '../../../cni/versions.ts';
import { installFakePlugin } from '../../fakes/cni-plugin.ts';

test('negotiate() takes the newest version that is offered and that all plugins speak', () => {
  const old = { type: 'bridge', spoken: ['0.4.0', '1.0.0'] };
  const silent = { type: 'script', spoken: undefined };
  expect(negotiate(['0.4.0', '1.0.0', '1.1.0'], [old, silent])).toBe('1.0.0');
  expect(negotiate(['1.1.0'], [silent])).toBe('1.1.0');
  expect(() => negotiate(['1.1.0'], [old, silent])).toThrow('plugin bridge speaks CNI 0.4.0, 1.0.0, and the configuration offers only 1.1.0');
  expect(() =>
    negotiate(
      ['0.4.0', '1.1.0'],
      [
        { type: 'a', spoken: ['0.4.0'] },
        { type: 'b', spoken: ['1.1.0'] },
      ],
    ),
  ).toThrow('its plugins have no CNI version in common among 0.4.0, 1.1.0');
});

test('PluginVersions asks a binary once, and again when it has been replaced', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'cni-versions-'));
  const path = await installFakePlugin(dir.path, 'fake', '0.4.0 1.0.0');
  const observe = vi.fn();
  const versions = new PluginVersions({ run, log: silentLog, observe });
  expect(await Promise.all([versions.of('fake', path), versions.of('fake', path)])).toEqual([
    ['0.4.0', '1.0.0'],
    ['0.4.0', '1.0.0'],
  ]);
  expect(observe.mock.calls).toEqual([[expect.any(Number), 'fake', true]]);
  await rm(path);
  await installFakePlugin(dir.path, 'fake', 'none');
  expect(await versions.of('fake', path)).toBeUndefined();
  expect(observe.mock.calls[1]).toEqual([expect.any(Number), 'fake', false]);
});
