import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readNetStats } from '../../../../server/container/net-stats.ts';

const HEAD = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
`;

async function read(lines: readonly string[]) {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-proc-'));
  await mkdir(join(dir.path, '7/net'), { recursive: true });
  await writeFile(join(dir.path, '7/net/dev'), HEAD + lines.map((line) => `${line}\n`).join(''));
  return readNetStats(7, { procRoot: dir.path });
}

const LO = '    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0';
const NET1 = '  net1:      10       1    2    0    0     0          0         0       30       4    5    0    0     0       0          0';
const ETH0 = '  eth0:123456789 1 0 0 0 0 0 0 987654321 1 7 0 0 0 0 0';

test('readNetStats() has all interfaces but the loopback, and eth0 for the default', async () => {
  const eth0 = { name: 'eth0', rxBytes: 123_456_789, rxErrors: 0, txBytes: 987_654_321, txErrors: 7 };
  const net1 = { name: 'net1', rxBytes: 10, rxErrors: 2, txBytes: 30, txErrors: 5 };
  expect(await read([LO, NET1, ETH0])).toEqual({ timestampNs: expect.any(BigInt), defaultInterface: eth0, interfaces: [net1, eth0] });
  expect(await read([LO, NET1])).toMatchObject({ defaultInterface: net1 });
});

test('readNetStats() has none where there is only the loopback', async () => {
  expect(await read([LO])).toMatchObject({ defaultInterface: undefined, interfaces: [] });
});

test('readNetStats() reads the namespace of a live process, and is undefined for none', async () => {
  expect(await readNetStats(process.pid)).toMatchObject({ timestampNs: expect.any(BigInt) });
  expect(await readNetStats(2 ** 22 + 1)).toBeUndefined();
});
