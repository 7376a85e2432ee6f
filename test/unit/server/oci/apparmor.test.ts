import { mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isProfileLoaded } from '../../../../server/oci/apparmor.ts';

test('isProfileLoaded() reads what the kernel lists, whole names only', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-apparmor-'));
  const file = join(dir.path, 'profiles');
  await writeFile(file, 'berth-default (enforce)\nmy profile (complain)\n/usr/bin/man (enforce)\n');
  for (const name of ['berth-default', 'my profile', '/usr/bin/man']) expect(isProfileLoaded(name, file)).toBe(true);
  for (const name of ['berth', 'my', 'berth-default (enforce)']) expect(isProfileLoaded(name, file)).toBe(false);
});

test('isProfileLoaded() leaves it to the OCI runtime where the kernel does not say', () => {
  expect(isProfileLoaded('any', '/nonexistent/profiles')).toBe(true);
});
