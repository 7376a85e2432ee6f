import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ownedByDefault, resolveCdi, validateCdi } from '../../../../server/oci/cdi.ts';
import { parseCdiSpec } from '../../../../server/oci/cdi-spec.ts';

const minimal = { cdiVersion: '0.6.0', kind: 'vendor.com/gpu', devices: [{ name: 'gpu0', containerEdits: { env: ['A=1'] } }] };

describe('parseCdiSpec()', () => {
  test('reads JSON and YAML alike', () => {
    const yaml = 'cdiVersion: "0.6.0"\nkind: vendor.com/gpu\ndevices:\n  - name: gpu0\n    containerEdits:\n      env: [A=1]\n';
    const { path: _json, ...fromJson } = parseCdiSpec('/a.json', JSON.stringify(minimal));
    const { path: _yaml, ...fromYaml } = parseCdiSpec('/a.yaml', yaml);
    expect(fromYaml).toEqual(fromJson);
    expect(fromJson.devices.get('gpu0')).toEqual({ env: ['A=1'] });
  });

  test.each<[string, object, string]>([
    ['a version of the future', { cdiVersion: '9.0.0' }, '/a.json: cdiVersion: "9.0.0" is not known'],
    ['no version', { cdiVersion: undefined }, 'cdiVersion: "" is not known'],
    ['a kind without a class', { kind: 'vendor' }, 'kind: "vendor" is not vendor/class'],
    ['no devices', { devices: [] }, 'devices: is empty'],
    ['a name that is none', { devices: [{ name: 'a=b' }] }, 'devices[0].name: "a=b" is no name'],
    ['a name twice', { devices: [{ name: 'a' }, { name: 'a' }] }, 'devices[1].name: "a" is there twice'],
    ['an unknown key', { devices: [{ name: 'a', containerEdits: { wireless: [] } }] }, 'devices[0].containerEdits.wireless: is not known'],
    ['a list that is none', { devices: 'a' }, 'devices: is no list'],
    ['a text that is none', { kind: 7 }, 'kind: is no string'],
    ['an environment that is none', { containerEdits: { env: ['A'] } }, 'containerEdits.env[0]: is not NAME=value'],
    ['a relative device', { containerEdits: { deviceNodes: [{ path: 'dev/a' }] } }, 'containerEdits.deviceNodes[0].path: "dev/a" is no absolute path'],
    ['other permissions', { containerEdits: { deviceNodes: [{ path: '/dev/a', permissions: 'x' }] } }, 'permissions: "x"'],
    ['another type', { containerEdits: { deviceNodes: [{ path: '/dev/a', type: 'q' }] } }, 'type: "q" is none of'],
    ['a mount of nothing', { containerEdits: { mounts: [{ containerPath: '/a' }] } }, 'mounts[0].hostPath: is empty'],
    ['an unknown hook', { containerEdits: { hooks: [{ hookName: 'later', path: '/a' }] } }, 'hooks[0].hookName: "later" is none of'],
    ['a relative hook', { containerEdits: { hooks: [{ hookName: 'prestart', path: 'a' }] } }, 'hooks[0].path: "a" is no absolute path'],
    ['groups before they were known', { containerEdits: { additionalGids: [1] } }, 'additionalGids or intelRdt needs cdiVersion 0.7.0, which is 0.6.0'],
    ['a host path before it was known', { cdiVersion: '0.4.0', containerEdits: { deviceNodes: [{ path: '/a', hostPath: '/b' }] } }, 'needs cdiVersion 0.5.0'],
    ['annotations before they were known', { cdiVersion: '0.5.0', annotations: { a: 'b' } }, 'annotations needs cdiVersion 0.6.0'],
    [
      'network devices before they were known',
      { containerEdits: { netDevices: [] } },
      'netDevices, or schemata or enableMonitoring of intelRdt, needs cdiVersion 1.1.0',
    ],
    ['monitoring before it was known', { cdiVersion: '1.0.0', containerEdits: { intelRdt: { enableMonitoring: true } } }, 'needs cdiVersion 1.1.0'],
    [
      'a network device without a name',
      { cdiVersion: '1.1.0', containerEdits: { netDevices: [{ hostInterfaceName: 'eth0' }] } },
      'containerEdits.netDevices[0].name: "" is no name of an interface',
    ],
    [
      'an interface that is none',
      { cdiVersion: '1.1.0', containerEdits: { netDevices: [{ hostInterfaceName: '../eth0', name: 'net1' }] } },
      'containerEdits.netDevices[0].hostInterfaceName: "../eth0" is no name of an interface',
    ],
    ['a digit before it was allowed', { cdiVersion: '0.4.0', devices: [{ name: '0' }] }, 'needs cdiVersion 0.5.0'],
  ])('refuses %s', (_what, change, message) => {
    expect(() => parseCdiSpec('/a.json', JSON.stringify({ ...minimal, ...change }))).toThrow(message);
  });

  test('says that text is neither', () => {
    expect(() => parseCdiSpec('/a.json', '{')).toThrow('/a.json: cannot be parsed');
    expect(() => parseCdiSpec('/a.yaml', 'a: [')).toThrow('/a.yaml: cannot be parsed');
  });
});

test('validateCdi() refuses what is no name of a device, by field and by annotation', () => {
  expect(() =>
    validateCdi({ CDI_devices: [{ name: 'vendor.com/gpu=all' }], annotations: { 'cdi.k8s.io/x': 'vendor.com/gpu=0,vendor.com/gpu=1' } }),
  ).not.toThrow();
  expect(() => validateCdi({ CDI_devices: [{ name: 'gpu=0' }], annotations: {} })).toThrow('config.CDI_devices[0].name: "gpu=0" is not vendor/class=name');
  expect(() => validateCdi({ CDI_devices: [], annotations: { 'cdi.k8s.io/x': 'v.com/g=0,' } })).toThrow('config.annotations[cdi.k8s.io/x]: ""');
});

describe('resolveCdi()', () => {
  async function makeDirs(files: Readonly<Record<string, object | string>>) {
    const temporary = await mkdtempDisposable(join(tmpdir(), 'cdi-'));
    const dirs = [join(temporary.path, 'static'), join(temporary.path, 'dynamic')];
    for (const dir of dirs) await mkdir(dir);
    for (const [name, content] of Object.entries(files))
      await writeFile(join(temporary.path, name), typeof content === 'string' ? content : JSON.stringify(content));
    return { dirs, [Symbol.asyncDispose]: () => temporary.remove() };
  }
  const asked = (...names: string[]) => ({ CDI_devices: names.map((name) => ({ name })), annotations: {} });
  const spec = (env: string, extra: object = {}) => ({
    cdiVersion: '0.7.0',
    kind: 'vendor.com/gpu',
    devices: [
      { name: 'a', containerEdits: { env: [`A=${env}`] } },
      { name: 'b', containerEdits: { env: [`B=${env}`] } },
    ],
    containerEdits: { env: [`ALL=${env}`], ...extra },
  });

  test('names network devices as config.json has them', async () => {
    const netDevices = [{ hostInterfaceName: 'ens5', name: 'net1' }];
    const file = { ...spec('1'), cdiVersion: '1.1.0', devices: [{ name: 'a', containerEdits: { netDevices } }] };
    await using world = await makeDirs({ 'static/a.json': file });
    expect((await resolveCdi(asked('vendor.com/gpu=a'), world.dirs)).netDevices).toEqual({ ens5: { name: 'net1' } });
  });

  test("makes a file's own edits once, before those of its devices", async () => {
    await using world = await makeDirs({ 'static/a.json': spec('1', { additionalGids: [0, 44] }) });
    const edits = await resolveCdi(asked('vendor.com/gpu=b', 'vendor.com/gpu=a'), world.dirs);
    expect(edits.env).toEqual(['ALL=1', 'B=1', 'A=1']);
    expect(edits.additionalGids).toEqual([44]);
  });

  test('takes a device by annotation, and one that is named both ways once', async () => {
    await using world = await makeDirs({ 'static/a.yaml': JSON.stringify(spec('1')) });
    const edits = await resolveCdi({ ...asked('vendor.com/gpu=a'), annotations: { 'cdi.k8s.io/p': 'vendor.com/gpu=a,vendor.com/gpu=b' } }, world.dirs);
    expect(edits.env).toEqual(['ALL=1', 'A=1', 'B=1']);
  });

  test('lets the later directory win, and refuses two files of one directory', async () => {
    await using world = await makeDirs({ 'static/a.json': spec('1'), 'static/b.json': spec('2'), 'dynamic/c.json': spec('3') });
    expect((await resolveCdi(asked('vendor.com/gpu=a'), world.dirs)).env).toEqual(['ALL=3', 'A=3']);
    await expect(resolveCdi(asked('vendor.com/gpu=a'), world.dirs.slice(0, 1))).rejects.toThrow(
      /config\.CDI_devices\[0\]\.name: "vendor\.com\/gpu=a" is described by .*a\.json and .*b\.json, which contradict each other/,
    );
  });

  test('names what no file describes, with the files that could not be read', async () => {
    await using world = await makeDirs({ 'static/a.json': spec('1'), 'static/bad.yaml': 'kind: [' });
    await expect(resolveCdi(asked('vendor.com/gpu=a', 'vendor.com/gpu=z'), world.dirs)).rejects.toThrow(
      /config\.CDI_devices\[1\]\.name: "vendor\.com\/gpu=z" is not described by any CDI file; .*bad\.yaml: cannot be parsed/,
    );
    expect((await resolveCdi(asked('vendor.com/gpu=a'), world.dirs)).env).toEqual(['ALL=1', 'A=1']);
  });

  test('finds device nodes on the host, of which the file may say other things', async () => {
    const deviceNodes = [
      { path: '/dev/mine', hostPath: '/dev/zero', permissions: 'r', fileMode: 0o600 },
      { path: '/dev/absent', type: 'b', major: 240, minor: 7, uid: 5 },
    ];
    const mounts = [
      { hostPath: '/usr/lib', containerPath: '/drivers', options: ['ro'] },
      { hostPath: 'none', containerPath: '/scratch', type: 'tmpfs' },
    ];
    const hooks = [{ hookName: 'createContainer', path: '/bin/true', args: ['true', '-x'] }];
    await using world = await makeDirs({ 'static/a.json': spec('1', { deviceNodes, mounts, hooks }) });
    const edits = await resolveCdi(asked('vendor.com/gpu=a'), world.dirs);
    expect(edits.devices).toMatchObject([
      { hostPath: '/dev/zero', access: 'r', device: { path: '/dev/mine', type: 'c', major: 1, minor: 5, fileMode: 0o600 } },
      { hostPath: '/dev/absent', access: 'rwm', device: { path: '/dev/absent', type: 'b', major: 240, minor: 7, uid: 5 } },
    ]);
    expect(edits.mounts).toEqual([
      { destination: '/drivers', source: '/usr/lib', type: 'bind', options: ['rbind', 'ro'] },
      { destination: '/scratch', source: 'none', type: 'tmpfs', options: [] },
    ]);
    expect(edits.hooks).toEqual([{ stage: 'createContainer', hook: { path: '/bin/true', args: ['true', '-x'] } }]);
    const [mine, absent] = edits.devices.map((device) => ownedByDefault(device, { uid: 7, gid: 8 }).device);
    expect(mine).toMatchObject({ uid: 7, gid: 8 });
    expect(absent).toMatchObject({ uid: 5, gid: 8 });
  });

  test('refuses a node that is not there', async () => {
    await using world = await makeDirs({ 'static/a.json': spec('1', { deviceNodes: [{ path: '/dev/not-there' }] }) });
    await expect(resolveCdi(asked('vendor.com/gpu=a'), world.dirs)).rejects.toThrow('CDI device node "/dev/not-there": ');
  });
});
