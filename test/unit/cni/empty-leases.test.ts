import { mkdir, mkdtempDisposable, readdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLog } from '#base/log.ts';
import type { NetworkConf } from '../../../cni/conf.ts';
import { removeEmptyLeases } from '../../../cni/empty-leases.ts';

test('removeEmptyLeases() removes old files of addresses that hold nothing, and no others', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'leases-'));
  const conf = (ipam: object): NetworkConf => ({
    name: 'n',
    cniVersion: '1.0.0',
    disableCheck: false,
    disableGC: false,
    plugins: [{ type: 'bridge', ipam }, { type: 'portmap' }],
  });
  const ours = conf({ type: 'host-local', dataDir: dir.path });
  await removeEmptyLeases(ours, silentLog, 0); // nothing there yet
  await mkdir(join(dir.path, 'n'));
  for (const [name, text] of Object.entries({ '10.1.0.2': '', 'fd00::2': '', '10.1.0.3': 'abc\neth0', lock: '', 'last_reserved_ip.0': '' })) {
    await writeFile(join(dir.path, 'n', name), text);
  }
  await removeEmptyLeases(ours, silentLog);
  await removeEmptyLeases(conf({ type: 'dhcp', dataDir: dir.path }), silentLog, 0);
  expect(await readdir(join(dir.path, 'n'))).toHaveLength(5);
  await removeEmptyLeases(ours, silentLog, 0);
  expect((await readdir(join(dir.path, 'n'))).sort()).toEqual(['10.1.0.3', 'last_reserved_ip.0', 'lock']);
});
