import { mkdtempDisposable, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { DirectoryWatch } from '#base/directory-watch.ts';
import { silentLog } from '#base/log.ts';

test('DirectoryWatch waits for a directory in whose place is a link that leads round in a circle', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-watch-'));
  const wanted = join(dir.path, 'conf.d');
  await symlink('conf.d', wanted);
  let changes = 0;
  using watch = new DirectoryWatch([wanted], { onChange: () => (changes += 1), log: silentLog });
  await unlink(wanted);
  await writeFile(wanted, '');
  await vi.waitFor(() => expect(changes).toBeGreaterThan(0), { timeout: 30_000 });
  watch.arm();
});
