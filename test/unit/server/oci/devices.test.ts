import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { deviceRules, hostDevices, resolveDevices, validateDevices } from '../../../../server/oci/devices.ts';

function device(host_path: string, permissions = 'rwm', container_path = host_path) {
  return { host_path, container_path, permissions };
}

test.each([
  [device('null'), 'config.devices[0].host_path: "null"'],
  [device('/dev/null', 'rw', 'null'), 'config.devices[0].container_path: "null"'],
  [device('/dev/null', 'rx'), 'config.devices[0].permissions: "rx"'],
  [device('/dev/null', 'rwr'), 'config.devices[0].permissions: "rwr"'],
])('validateDevices() refuses %j', (wanted, message) => {
  expect(() => validateDevices([wanted])).toThrow(message);
});

test.each(['', 'r', 'w', 'm', 'rw', 'mrw'])('validateDevices() takes the permissions "%s"', (permissions) => {
  expect(() => validateDevices([device('/dev/null', permissions)])).not.toThrow();
});

describe('resolveDevices()', () => {
  test('finds type and number of a device', async () => {
    const devices = await resolveDevices([device('/dev/zero', 'r', '/dev/my-zero')]);
    expect(devices).toEqual([
      { access: 'r', hostPath: '/dev/zero', device: { path: '/dev/my-zero', type: 'c', major: 1, minor: 5, fileMode: expect.any(Number), uid: 0, gid: 0 } },
    ]);
    expect(deviceRules(devices)).toEqual([{ allow: true, type: 'c', major: 1, minor: 5, access: 'r' }]);
  });

  test('gives all access when the permissions are empty', async () => {
    expect(await resolveDevices([device('/dev/zero', '')])).toMatchObject([{ access: 'rwm' }]);
  });

  test('names the field of what is missing or no device', async () => {
    await using dir = await mkdtempDisposable(join(tmpdir(), 'devices-'));
    await writeFile(join(dir.path, 'file'), '');
    await expect(resolveDevices([device('/dev/zero'), device('/dev/not-there')])).rejects.toThrow('config.devices[1].host_path: "/dev/not-there" is no device');
    await expect(resolveDevices([device(join(dir.path, 'file'))])).rejects.toThrow('is no device and no directory');
  });

  test('takes a directory for the devices in it, files left out', async () => {
    await using dir = await mkdtempDisposable(join(tmpdir(), 'devices-'));
    await mkdir(join(dir.path, 'sub'));
    await writeFile(join(dir.path, 'sub/file'), '');
    expect(await resolveDevices([device(dir.path)])).toEqual([]);
  });
});

test('hostDevices() lists the nodes of /dev without terminals and without what a container has of its own', async () => {
  const devices = await hostDevices();
  const paths = devices.map(({ device: { path } }) => path);
  expect(paths).toContain('/dev/zero');
  expect(paths.filter((path) => /^\/dev\/(pts|shm|mqueue|ptmx|console)/.test(path))).toEqual([]);
  expect(paths).toEqual(paths.toSorted());
});
