import { mkdir, mkdtempDisposable, realpath, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { MountPropagation } from '../../../../proto/cri.ts';
import { isWithin, mountOf, parseMountInfo } from '../../../../server/oci/mount-info.ts';
import { resolveMounts, validateMounts } from '../../../../server/oci/mounts.ts';
import { mount } from './requests.ts';

const features = { recursiveReadOnly: true, idmapped: true, ownRoots: [] };

async function makeDirectory() {
  const dir = await mkdtempDisposable(join(tmpdir(), 'mounts-'));
  return { path: await realpath(dir.path), [Symbol.asyncDispose]: () => dir.remove() };
}

describe('validateMounts()', () => {
  const idMapping = { host_id: 65536, container_id: 0, length: 65536 };
  const imageSpec = { image: 'busybox', annotations: {}, user_specified_image: '', runtime_handler: '', image_ref: '' };
  test.each([
    ['a relative source', { host_path: 'data' }, 'config.mounts[1].host_path: "data" is no absolute path'],
    ['no source', { host_path: '' }, 'config.mounts[1].host_path: "" is no absolute path'],
    ['a relative destination', { container_path: 'data' }, 'config.mounts[1].container_path: "data"'],
    ['the root as destination', { container_path: '/a/..' }, 'is the whole root file system'],
    ['a NUL', { host_path: '/a\0' }, 'config.mounts[1].host_path'],
    ['an unknown propagation', { propagation: 7 as MountPropagation }, 'config.mounts[1].propagation: 7 is no mount propagation'],
    ['recursive read-only without read-only', { recursive_read_only: true }, 'needs readonly'],
    [
      'recursive read-only with propagation',
      { recursive_read_only: true, readonly: true, propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER },
      'needs propagation PRIVATE',
    ],
    ['mappings of uids alone', { uidMappings: [idMapping] }, 'config.mounts[1].gidMappings: is empty, the other one is not'],
    ['an empty mapping', { uidMappings: [{ ...idMapping, length: 0 }] }, 'config.mounts[1].uidMappings[0].length: 0 maps nothing'],
    ['an image beside a source', { image: imageSpec, host_path: '/a' }, 'config.mounts[1].host_path: "/a" stands beside an image'],
    [
      'a path out of an image',
      { image: imageSpec, host_path: '', image_sub_path: 'a/../../b' },
      'config.mounts[1].image_sub_path: "a/../../b" is no path inside',
    ],
    ['a path in no image', { image_sub_path: 'x' }, 'needs an image'],
    ['an unknown option', { mount_options: ['nodev', 'suid'] }, 'config.mounts[1].mount_options: "suid" is none of'],
  ])('refuses %s', (_what, change, message) => {
    expect(() => validateMounts([mount(), mount(change)])).toThrow(message);
  });

  test('takes what the kubelet sends', () => {
    const token = mount({ readonly: true, selinux_relabel: true, container_path: '/var/run/secrets/kubernetes.io/serviceaccount' });
    expect(() => validateMounts([token, mount({ mount_options: ['nodev', 'nosuid', 'noexec'] })])).not.toThrow();
  });
});

describe('resolveMounts()', () => {
  test('finds what a symlink stands for and keeps the order', async () => {
    await using dir = await makeDirectory();
    await mkdir(join(dir.path, 'real'));
    await writeFile(join(dir.path, 'real/file'), '');
    await symlink('real', join(dir.path, 'link'));
    const resolved = await resolveMounts(
      [
        mount({ host_path: join(dir.path, 'link/file'), container_path: '/b/', readonly: true }),
        mount({ host_path: join(dir.path, 'link'), container_path: '/a//x' }),
      ],
      features,
    );
    expect(resolved).toEqual([
      {
        containerPath: '/b',
        source: join(dir.path, 'real/file'),
        readonly: true,
        recursiveReadOnly: false,
        propagation: 'rprivate',
        flags: [],
        uidMappings: [],
        gidMappings: [],
      },
      {
        containerPath: '/a/x',
        source: join(dir.path, 'real'),
        readonly: false,
        recursiveReadOnly: false,
        propagation: 'rprivate',
        flags: [],
        uidMappings: [],
        gidMappings: [],
      },
    ]);
  });

  test('makes a directory where the source is missing', async () => {
    await using dir = await makeDirectory();
    const [resolved] = await resolveMounts([mount({ host_path: join(dir.path, 'a/b') })], features);
    expect(resolved?.source).toBe(join(dir.path, 'a/b'));
    expect((await stat(join(dir.path, 'a/b'))).isDirectory()).toBe(true);
  });

  test('names the field when the source can neither be found nor made', async () => {
    await using dir = await makeDirectory();
    await writeFile(join(dir.path, 'file'), '');
    await symlink('nowhere/at/all', join(dir.path, 'dangling'));
    for (const name of ['file/below', 'dangling']) {
      await expect(resolveMounts([mount(), mount({ host_path: join(dir.path, name) })], features)).rejects.toThrow('config.mounts[1].host_path');
    }
  });

  test('refuses recursive read-only when the runtime cannot', async () => {
    const recursive = mount({ readonly: true, recursive_read_only: true });
    expect(await resolveMounts([recursive], features)).toMatchObject([{ recursiveReadOnly: true }]);
    await expect(resolveMounts([recursive], { ...features, recursiveReadOnly: false })).rejects.toThrow('config.mounts[0].recursive_read_only: not supported');
  });

  test("lets the daemon's unmounts through to who mounts the tree they lie in", async () => {
    await using dir = await makeDirectory();
    await mkdir(join(dir.path, 'berth/containers'), { recursive: true });
    const own = { ...features, ownRoots: [join(dir.path, 'berth')] };
    const propagations = (
      await resolveMounts(
        ['', 'berth', 'berth/containers'].map((path) => mount({ host_path: join(dir.path, path) })),
        own,
      )
    ).map(({ propagation }) => propagation);
    expect(propagations).toEqual(['rslave', 'rslave', 'rprivate']);
  });
});

describe('mountOf()', () => {
  const mounts = parseMountInfo(
    [
      '21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw',
      '30 21 0:20 / /mnt rw - tmpfs tmpfs rw',
      '31 30 0:21 / /mnt/with\\040blank rw master:5 - tmpfs tmpfs rw',
      '32 21 0:22 / /mnt rw shared:9 master:2 - tmpfs tmpfs rw',
      '',
    ].join('\n'),
  );

  test.each([
    ['/etc', '/', true, false],
    ['/mnt', '/mnt', true, true], // the later mount is on top
    ['/mntx', '/', true, false],
    ['/mnt/with blank/x', '/mnt/with blank', false, true],
  ])('finds what %s lies on', (path, on, shared, slave) => {
    expect(mountOf(mounts, path)).toEqual({ path: on, shared, slave });
  });
});

test.each([
  ['/a', '/a', true],
  ['/a/b', '/a', true],
  ['/ab', '/a', false],
  ['/a', '/a/b', false],
  ['/a', '/', true],
])('isWithin(%s, %s) is %s', (path, directory, expected) => {
  expect(isWithin(path, directory)).toBe(expected);
});
