import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { buildContainerSpec } from '../../../../server/oci/container-spec.ts';
import { HookDirectories, injectHooks, parseHookFile } from '../../../../server/oci/hooks.ts';
import { containerConfig, specInput } from './requests.ts';

const minimal = { version: '1.0.0', hook: { path: '/bin/true' }, when: { always: true }, stages: ['prestart'] };
const subject = { annotations: { 'example.com/a': 'yes', b: 'no' }, command: '/usr/bin/app', hasBindMounts: false };
const user = { uid: 0, gid: 0, additionalGids: [0], username: 'root', home: '/', newPasswd: undefined, newGroup: undefined };
const cdi = { env: [], devices: [], mounts: [], hooks: [], additionalGids: [], intelRdt: undefined, netDevices: {} };
const { spec } = buildContainerSpec(specInput(containerConfig()), { user, mounts: [], devices: [], seccomp: undefined, volumes: [], cdi });

describe('parseHookFile()', () => {
  test.each<[string, object, string]>([
    ['another version', { version: '0.1.0' }, '/h.json: version: "0.1.0" is not 1.0.0'],
    ['no stage', { stages: [] }, 'stages: is empty'],
    ['an unknown stage', { stages: ['precreate'] }, 'stages: "precreate" is none of'],
    ['a relative path', { hook: { path: 'true' } }, 'hook.path: "true" is no absolute path'],
    ['no hook', { hook: undefined }, 'hook: is no table'],
    ['a condition that is none', { when: {} }, 'when: is empty'],
    ['an unknown condition', { when: { sometimes: true } }, 'when.sometimes: is not known'],
    ['a pattern that is none', { when: { commands: ['('] } }, 'when.commands: "(" is no regular expression'],
    ['a truth that is none', { when: { always: 'yes' } }, 'when.always: is neither true nor false'],
    ['an unknown key', { cmds: [] }, 'cmds: is not known'],
    ['a timeout that is none', { hook: { path: '/a', timeout: '5' } }, 'hook.timeout: "5" is no number'],
  ])('refuses %s', (_what, change, message) => {
    expect(() => parseHookFile('/h.json', JSON.stringify({ ...minimal, ...change }))).toThrow(message);
  });
});

describe('injectHooks()', () => {
  const injected = (when: object, change = {}) =>
    injectHooks(spec, [parseHookFile('/h.json', JSON.stringify({ ...minimal, when }))], { ...subject, ...change }).hooks !== undefined;

  test.each<[object, boolean]>([
    [{ always: true }, true],
    [{ always: false }, false],
    [{ always: true, hasBindMounts: true }, false],
    [{ commands: ['^/bin/', '/app$'] }, true],
    [{ commands: ['^/bin/'] }, false],
    [{ annotations: { '^example\\.com/a$': '^yes$' } }, true],
    [{ annotations: { '^example\\.com/a$': '^yes$', '^c$': '.*' } }, false],
    [{ annotations: { '^b$': '^yes$' } }, false],
  ])('%j is %s', (when, meant) => {
    expect(injected(when)).toBe(meant);
  });

  test('asks for mounts of the request', () => {
    expect(injected({ hasBindMounts: true }, { hasBindMounts: true })).toBe(true);
  });

  test('adds to the hooks that are there, at each stage', () => {
    const own = { ...spec, hooks: { prestart: [{ path: '/own' }] } };
    const file = parseHookFile(
      '/h.json',
      JSON.stringify({ ...minimal, hook: { path: '/bin/a', args: ['a', 'b'], env: ['X=1'], timeout: 3 }, stages: ['prestart', 'poststop'] }),
    );
    const hook = { path: '/bin/a', args: ['a', 'b'], env: ['X=1'], timeout: 3 };
    expect(injectHooks(own, [file], subject).hooks).toEqual({ prestart: [{ path: '/own' }, hook], poststop: [hook] });
  });
});

test('HookDirectories lets later files replace their namesakes, sees changes, and reports bad ones', async () => {
  await using temporary = await mkdtempDisposable(join(tmpdir(), 'hooks-'));
  const [first, second] = [join(temporary.path, 'first'), join(temporary.path, 'second')];
  for (const dir of [first, second]) await mkdir(dir);
  const write = (dir: string, name: string, hook: object) => writeFile(join(dir, name), JSON.stringify({ ...minimal, hook }));
  await write(first, '20.json', { path: '/bin/true' });
  await write(first, '10.json', { path: '/bin/false' });
  await write(second, '20.json', { path: '/bin/sh' });
  await writeFile(join(second, 'bad.json'), '{');
  await write(second, 'gone.json', { path: '/not/there' });
  await writeFile(join(second, 'README'), 'no hook');
  const reports: string[] = [];
  const hooks = new HookDirectories(
    () => [first, second, join(temporary.path, 'missing')],
    (path, err) => reports.push(`${path} ${err}`),
  );
  expect((await hooks.read()).map(({ hook }) => hook.path)).toEqual(['/bin/false', '/bin/sh']);
  expect(reports.join('\n')).toMatch(/bad\.json .*cannot be parsed[\s\S]*gone\.json .*ENOENT/);
  await write(second, '20.json', { path: '/bin/cat' });
  expect((await hooks.read()).map(({ hook }) => hook.path)).toEqual(['/bin/false', '/bin/cat']);
});
