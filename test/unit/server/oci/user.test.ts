import { execFileSync } from 'node:child_process';
import { mkdir, mkdtempDisposable, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type LinuxContainerSecurityContext, SupplementalGroupsPolicy } from '../../../../proto/cri.ts';
import { parseGroup, parsePasswd, parseUserId } from '../../../../server/oci/etc-passwd.ts';
import { type ResolvedUser, resolveUser } from '../../../../server/oci/user.ts';
import { containerSecurity } from './requests.ts';

const PASSWD =
  'root:x:0:0:root:/root:/bin/sh\n\n# comment\nbroken line\nbad:x:minus:0::/:\napp:x:1000:1001:app:/home/app:/bin/sh\n7:x:1007:1007::relative:\nlast:x:5:5::/l:';
const GROUP = 'root:x:0:root\naudio:x:29:app,last\nbad:x:nan:app\napp:x:1001:\nvideo:x:44: app \n';

async function resolve(
  imageUser: string,
  security: Partial<LinuxContainerSecurityContext> = {},
  files: Readonly<Record<string, string>> = { passwd: PASSWD, group: GROUP },
): Promise<ResolvedUser> {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'user-'));
  await mkdir(join(dir.path, 'etc'));
  for (const [name, text] of Object.entries(files)) await writeFile(join(dir.path, 'etc', name), text);
  return await resolveUser(dir.path, imageUser, containerSecurity(security));
}

const id = (value: number) => ({ value: String(value) });

describe('resolveUser()', () => {
  test.each([
    ['', 0, 0, [0], 'root', '/root'],
    ['app', 1000, 1001, [1001, 29, 44], 'app', '/home/app'],
    ['1000', 1000, 1001, [1001, 29, 44], 'app', '/home/app'],
    ['app:audio', 1000, 29, [29, 44], 'app', '/home/app'],
    ['app:77', 1000, 77, [77, 29, 44], 'app', '/home/app'],
    ['4000', 4000, 0, [0], undefined, '/'],
    ['4000:4001', 4000, 4001, [4001], undefined, '/'],
    ['last', 5, 5, [5, 29], 'last', '/l'],
    ['7', 7, 0, [0], undefined, '/'], // the user of that name has another number
    ['1007', 1007, 1007, [1007], '7', '/'], // and a home that is no path
  ])('finds the user "%s" of an image', async (imageUser, uid, gid, additionalGids, username, home) => {
    expect(await resolve(imageUser)).toMatchObject({ uid, gid, additionalGids, username, home });
  });

  test("takes the request's user instead, without the image's group", async () => {
    expect(await resolve('app:audio', { run_as_user: id(1000) })).toMatchObject({ uid: 1000, gid: 1001 });
    expect(await resolve('root', { run_as_username: 'app' })).toMatchObject({ uid: 1000, gid: 1001 });
    expect(await resolve('root', { run_as_user: id(1000), run_as_group: id(5) })).toMatchObject({ uid: 1000, gid: 5 });
  });

  test('adds the supplemental groups, and with Strict no others', async () => {
    const merged = await resolve('', { run_as_user: id(1000), supplemental_groups: ['2000', '29'] });
    expect(merged.additionalGids).toEqual([1001, 29, 44, 2000]);
    const strict = await resolve('', {
      run_as_user: id(1000),
      supplemental_groups: ['2000'],
      supplemental_groups_policy: SupplementalGroupsPolicy.Strict,
    });
    expect(strict.additionalGids).toEqual([1001, 2000]);
  });

  test.each([
    ['nobody', {}, 'user of the image: "nobody" is not in'],
    ['app:nobody', {}, 'group of the image: "nobody" is no group id'],
    ['-1', {}, 'user of the image: "-1" is no user id'],
    ['4294967295', {}, 'user of the image: "4294967295" is no user id'],
    ['', { run_as_username: 'ghost' }, 'run_as_username: "ghost" is not in'],
    ['', { run_as_username: '1000' }, 'run_as_username: "1000" is not in'],
    ['', { run_as_group: id(5) }, 'run_as_group: "5" needs run_as_user'],
  ])('refuses the image user "%s" with %j', async (imageUser, security, message) => {
    await expect(resolve(imageUser, security)).rejects.toThrow(message);
  });

  test('writes a passwd line for a number that is not listed, and only then', async () => {
    const added = await resolve('', { run_as_user: id(4000), run_as_group: id(4001) });
    expect(String(added.newPasswd)).toBe(`${PASSWD}\n4000:x:4000:4001:container user:/:/sbin/nologin\n`);
    expect((await resolve('app')).newPasswd).toBeUndefined();
    expect((await resolve('4000', {}, {})).newPasswd).toBeUndefined();
  });

  test('does without the files', async () => {
    expect(await resolve('4000', { supplemental_groups: ['3'] }, {})).toMatchObject({ uid: 4000, gid: 0, additionalGids: [0, 3] });
    await expect(resolve('app', {}, {})).rejects.toThrow('user of the image');
  });

  test('does not follow a symlink out of the rootfs', async () => {
    await using dir = await mkdtempDisposable(join(tmpdir(), 'user-'));
    const rootfs = join(dir.path, 'rootfs');
    await mkdir(join(rootfs, 'real'), { recursive: true });
    await writeFile(join(dir.path, 'outside'), 'evil:x:0:0::/:\n');
    await symlink('/real', join(rootfs, 'etc'));
    await symlink('../../outside', join(rootfs, 'real/passwd'));
    await expect(resolveUser(rootfs, 'evil', null)).rejects.toThrow('is not in');
    await writeFile(join(rootfs, 'outside'), 'inside:x:5:6::/:\n');
    expect(await resolveUser(rootfs, 'inside', null)).toMatchObject({ uid: 5, gid: 6 });
  });

  test('refuses a passwd that is too large or no file, without waiting for a fifo', async () => {
    await using dir = await mkdtempDisposable(join(tmpdir(), 'user-'));
    await mkdir(join(dir.path, 'etc'));
    await writeFile(join(dir.path, 'etc/passwd'), '');
    await truncate(join(dir.path, 'etc/passwd'), 1024 * 1024 + 1);
    await expect(resolveUser(dir.path, 'app', null)).rejects.toThrow('/etc/passwd of the image has 1048577 bytes');
    execFileSync('mkfifo', [join(dir.path, 'etc/group')]);
    await writeFile(join(dir.path, 'etc/passwd'), '');
    await expect(resolveUser(dir.path, 'app', null)).rejects.toThrow('/etc/group of the image is no file');
  });
});

describe('parsePasswd() and parseGroup()', () => {
  test('skip what is malformed', () => {
    expect(parsePasswd(PASSWD).map(({ name }) => name)).toEqual(['root', 'app', '7', 'last']);
    expect(parseGroup(GROUP).map(({ name }) => name)).toEqual(['root', 'audio', 'app', 'video']);
    expect(parsePasswd(':x:0:0::/:\n')).toEqual([]);
  });
});

test.each([
  ['0', 0],
  ['4294967294', 4294967294],
  ['4294967295', undefined],
  ['-1', undefined],
  ['', undefined],
  ['1e3', undefined],
  [' 1', undefined],
])('parseUserId() reads %j as %s', (text, number) => {
  expect(parseUserId(text)).toBe(number);
});
