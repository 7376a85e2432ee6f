import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { ContainerRecord } from '../../../../server/container/container.ts';
import { Deaths } from '../../../../server/container/deaths.ts';
import { noteEnd } from '../../../../server/container/end.ts';
import type { Parts } from '../../../../server/parts.ts';
import { Records } from '../../../../server/records.ts';

const process = { pid: 1, startTime: '1' };

function running(id: string, lostOomKills?: number): ContainerRecord {
  const state = { name: 'running', init: process, monitor: process, startedAt: '1' };
  return {
    id,
    state,
    cgroup: `/pod.slice/berth-${id}.scope`,
    resources: null,
    ...(lostOomKills === undefined ? {} : { lostOomKills }),
  } as unknown as ContainerRecord;
}

/** What noting an end takes: records on disk, exit files, and a count of lost OOM kills that is `lost` for every cgroup. */
async function world(lost: number | undefined, ...records: ContainerRecord[]) {
  const dir = await mkdtempDisposable(join(tmpdir(), 'berth-end-'));
  const { records: containers } = await Records.open<ContainerRecord>(join(dir.path, 'containers'), join(dir.path, 'trash'));
  for (const record of records) await containers.insert(record);
  await mkdir(join(dir.path, 'exits'));
  let ooms = 0;
  const parts = {
    containers,
    paths: { exits: join(dir.path, 'exits'), bundle: (id: string) => join(dir.path, id) },
    cgroups: { lostOomKills: async () => lost, oomKills: async () => undefined, ownOoms: async () => undefined, reachedLimit: async () => undefined },
    deaths: new Deaths(),
    log: { info: () => {} },
    background: () => {},
    observeOom: () => {
      ooms += 1;
    },
  } as unknown as Parts;
  const end = async (id: string, exitCode: number): Promise<unknown> => {
    await writeFile(join(dir.path, 'exits', id), String(exitCode));
    await noteEnd(parts, id);
    return containers.get(id)?.state;
  };
  return { end, containers, ooms: () => ooms, [Symbol.asyncDispose]: () => dir.remove() };
}

test('noteEnd() tells an OOM kill by the cgroup above when the monitor was too late', async () => {
  await using w = await world(3, running('a', 2));
  expect(await w.end('a', 137)).toMatchObject({ name: 'exited', exitCode: 137, reason: 'OOMKilled' });
  expect(w.ooms()).toBe(1);
});

test.each([
  ['nothing was killed since its start', 2, running('a', 2)],
  ['the counts have begun anew', 0, running('a', 2)],
  ['its start was before such counts were kept', 3, running('a')],
  ['there is no such count', undefined, running('a', 2)],
])('noteEnd() sees no OOM kill when %s', async (_what, lost, record) => {
  await using w = await world(lost, record);
  expect(await w.end('a', 137)).toMatchObject({ exitCode: 137, reason: 'Error' });
  expect(w.ooms()).toBe(0);
});

test('noteEnd() does not give the OOM kills of one container to its neighbours as well', async () => {
  await using w = await world(5, running('a', 2), running('b', 2));
  expect(await w.end('a', 137)).toMatchObject({ reason: 'OOMKilled' });
  expect(w.containers.get('b')?.lostOomKills).toBe(5);
  expect(await w.end('b', 137)).toMatchObject({ reason: 'Error' });
});

test('noteEnd() calls a container completed that outlived the OOM kill of a child', async () => {
  await using w = await world(3, running('a', 2), running('b', 2));
  expect(await w.end('a', 0)).toMatchObject({ exitCode: 0, reason: 'Completed' });
  expect(w.containers.get('b')?.lostOomKills).toBe(3);
});
