import { mkdirSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLog } from '#base/log.ts';
import { ExitWatcher, readExit } from '../../../conmon/conmon.ts';
import { makeBundle, until } from './bundle.ts';

async function makeExits() {
  const directory = await mkdtempDisposable(join(tmpdir(), 'exits-'));
  const told: string[] = [];
  const put = (id: string, text: string): void => {
    writeFileSync(join(directory.path, `${id}.AbC123`), text);
    renameSync(join(directory.path, `${id}.AbC123`), join(directory.path, id));
  };
  const open = (): Promise<ExitWatcher> => ExitWatcher.open(directory.path, (id) => void told.push(id), silentLog);
  return { path: directory.path, told, put, open, [Symbol.asyncDispose]: () => directory.remove() };
}

test('ExitWatcher tells each id once, also one that was there before, and again after its file was made anew', async () => {
  await using exits = await makeExits();
  exits.put('early', '0');
  await using _watcher = await exits.open();
  expect(exits.told).toEqual([]);
  await until(() => exits.told.length === 1, 'the early exit');
  exits.put('late', '1');
  await until(() => exits.told.length === 2, 'the late exit');
  exits.put('late', '1');
  rmSync(join(exits.path, 'early'));
  exits.put('last', '2');
  await until(() => exits.told.length === 3, 'the last exit');
  exits.put('early', '3');
  await until(() => exits.told.length === 4, 'the second early exit');
  expect(exits.told).toEqual(['early', 'late', 'last', 'early']);
});

test('ExitWatcher does not tell of a file that has no content yet', async () => {
  await using exits = await makeExits();
  await using _watcher = await exits.open();
  writeFileSync(join(exits.path, 'half'), '');
  exits.put('other', '0');
  await until(() => exits.told.includes('other'), 'another exit');
  expect(exits.told).toEqual(['other']);
  writeFileSync(join(exits.path, 'half'), '137');
  await until(() => exits.told.includes('half'), 'the whole exit');
});

test('ExitWatcher goes on when the directory is made anew', async () => {
  await using exits = await makeExits();
  await using _watcher = await exits.open();
  rmSync(exits.path, { recursive: true });
  mkdirSync(exits.path);
  exits.put('new', '0');
  await until(() => exits.told.includes('new'), 'the periodic look');
  exits.put('newer', '0');
  await until(() => exits.told.includes('newer'), 'the watch of the new directory');
});

test('ExitWatcher tells nothing after it was disposed of', async () => {
  await using exits = await makeExits();
  const watcher = await exits.open();
  await watcher[Symbol.asyncDispose]();
  exits.put('late', '0');
  await using other = await exits.open();
  await until(() => exits.told.length > 0, 'the other watcher');
  expect(exits.told).toEqual(['late']);
  expect(other).toBeDefined();
});

test('ExitWatcher fails to open when the directory is missing', async () => {
  await expect(ExitWatcher.open('/nonexistent/exits', () => {}, silentLog)).rejects.toThrow('ENOENT');
});

test('ExitWatcher tells of a real container', async () => {
  await using bundle = await makeBundle('/usr/bin/crun', { args: ['true'] });
  const told: string[] = [];
  await using _watcher = await ExitWatcher.open(bundle.spec.exitDir, (id) => void told.push(id), silentLog);
  await bundle.startAndRun();
  await until(() => told.length > 0, 'the exit');
  expect(told).toEqual([bundle.spec.id]);
});

test('readExit() keeps the whole precision of the time and tells of an oom file', async () => {
  await using exits = await makeExits();
  exits.put('c', '-1');
  utimesSync(join(exits.path, 'c'), 1_700_000_000.25, 1_700_000_000.25);
  expect(await readExit(exits.path, 'c', exits.path)).toEqual({ exitCode: -1, finishedAt: 1_700_000_000_250_000_000n, oomKilled: false });
  exits.put('c', '137');
  writeFileSync(join(exits.path, 'oom'), '');
  const { mtimeNs } = statSync(join(exits.path, 'c'), { bigint: true });
  expect(await readExit(exits.path, 'c', exits.path)).toEqual({ exitCode: 137, finishedAt: mtimeNs, oomKilled: true });
});

test.each(['', 'abc'])('readExit() knows no exit from a file with %j in it', async (text) => {
  await using exits = await makeExits();
  writeFileSync(join(exits.path, 'c'), text);
  expect(await readExit(exits.path, 'c', exits.path)).toBeUndefined();
  expect(await readExit(exits.path, 'd', exits.path)).toBeUndefined();
});
