import { chmod, mkdir, mkdtempDisposable, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { silentLog } from '#base/log.ts';
import { Networks, type NetworksOptions } from '../../../cni/networks.ts';

interface World extends AsyncDisposable {
  readonly net: string;
  readonly bin: string;
  plugin(type: string, mode?: number): Promise<void>;
  conf(file: string, conf: unknown): Promise<void>;
  open(options?: Partial<NetworksOptions>): Promise<Networks>;
}

async function makeWorld(): Promise<World> {
  const root = await mkdtempDisposable(join(tmpdir(), 'cni-networks-'));
  const [net, bin] = [join(root.path, 'net.d'), join(root.path, 'bin')];
  await Promise.all([mkdir(net), mkdir(bin)]);
  return {
    net,
    bin,
    plugin: (type, mode = 0o755) => writeFile(join(bin, type), '#!/bin/sh\n', { mode }),
    conf: (file, conf) => writeFile(join(net, file), typeof conf === 'string' ? conf : JSON.stringify(conf)),
    open: (options) => Networks.open({ networkDir: net, pluginDirs: [bin], defaultNetwork: '', log: silentLog, ...options }),
    [Symbol.asyncDispose]: () => root.remove(),
  };
}

const list = (name: string, ...types: string[]) => ({ cniVersion: '1.0.0', name, plugins: types.map((type) => ({ type })) });

test('Networks takes the first by file name, whatever its form', async () => {
  await using world = await makeWorld();
  await world.plugin('ptp');
  await world.conf('30-c.conflist', list('c', 'ptp'));
  await world.conf('20-b.json', { cniVersion: '0.3.1', name: 'b', type: 'ptp' });
  await world.conf('10-a.conf.bak', list('a', 'ptp'));
  await using networks = await world.open();
  expect(networks.choice.network?.conf.name).toBe('b');
  expect(networks.inventory.networks.map(({ conf }) => conf.name)).toEqual(['b', 'c']);
});

test('Networks takes the default by name', async () => {
  await using world = await makeWorld();
  await world.plugin('ptp');
  await world.conf('10-a.conflist', list('a', 'ptp'));
  await world.conf('20-b.conflist', list('b', 'ptp'));
  await using networks = await world.open({ defaultNetwork: 'b' });
  expect(networks.choice.network?.conf.name).toBe('b');
  await using none = await world.open({ defaultNetwork: 'z' });
  expect(none.choice.why).toBe(`network z is not in ${world.net}, which has a, b`);
});

test('Networks keeps a good network when other files are bad, and tells of each', async () => {
  await using world = await makeWorld();
  await world.plugin('ptp');
  await world.conf('00-empty.conf', '');
  await world.conf('01-bad.conflist', '{"name": "x", ');
  await mkdir(join(world.net, '02-dir.conf'));
  await symlink('/nowhere/at/all', join(world.net, '03-dangling.conf'));
  await world.conf('04-big.conf', ' '.repeat(1024 * 1024 + 1));
  await world.conf('10-a.conflist', list('a', 'ptp'));
  await world.conf('20-same.conflist', list('a', 'ptp'));
  await using networks = await world.open();
  expect(networks.choice.network?.conf.name).toBe('a');
  expect(networks.inventory.problems.map(({ file, reason }) => `${file.slice(world.net.length + 1)}: ${reason}`)).toEqual([
    '00-empty.conf: is empty',
    expect.stringMatching(/^01-bad\.conflist: is not JSON/),
    '02-dir.conf: is not a file',
    expect.stringMatching(/^03-dangling\.conf: ENOENT/),
    '04-big.conf: is 1048577 bytes long, more than 1048576',
    '20-same.conflist: name: "a" is also the name in 10-a.conflist, which comes first',
  ]);
});

test('Networks says what is missing', async () => {
  await using world = await makeWorld();
  const other = join(world.net, 'no-such-bin');
  await using empty = await world.open();
  expect(empty.choice.why).toBe(`no network in ${world.net} (looked for *.conf, *.conflist, *.json)`);
  await using nowhere = await world.open({ networkDir: join(world.net, 'none') });
  expect(nowhere.choice.why).toBe(`network directory ${world.net}/none does not exist`);

  await world.conf('10-bad.conf', '{}');
  await empty.reload();
  expect(empty.choice.why).toContain('10-bad.conf: name: undefined is not a network name');

  await world.conf('10-bad.conf', { name: 'a', cniVersion: '1.0.0', plugins: [{ type: 'bridge', ipam: { type: 'host-local' } }, { type: 'portmap' }] });
  await world.conf('20-b.conflist', list('b', 'ptp'));
  await world.plugin('ptp');
  await world.plugin('portmap', 0o644);
  await using networks = await world.open({ pluginDirs: [world.bin, other] });
  // The second network is complete and still not taken: pods would land on the wrong one while the first installs itself.
  expect(networks.choice.why).toBe(
    `network a (${world.net}/10-bad.conf): plugin bridge was not found in ${world.bin}, ${other}; ` +
      `plugin host-local was not found in ${world.bin}, ${other}; plugin portmap at ${world.bin}/portmap is not executable`,
  );
});

test('Networks does not ask for a binary by the ipam type of a plugin that may mean something else by it', async () => {
  await using world = await makeWorld();
  await world.plugin('provider');
  await world.conf('10-a.conflist', { ...list('a'), plugins: [{ type: 'provider', ipam: { type: 'kubernetes' } }] });
  await using networks = await world.open();
  expect(networks.choice.network?.conf.name).toBe('a');
});

test('Networks passes over a loopback network unless it is asked for by name', async () => {
  await using world = await makeWorld();
  await world.plugin('loopback');
  await world.conf('10-lo.conf', { cniVersion: '1.0.0', name: 'lo', type: 'loopback' });
  await using networks = await world.open();
  expect(networks.choice.why).toBe(`no other than a loopback network in ${world.net} (looked for *.conf, *.conflist, *.json)`);
  await using byName = await world.open({ defaultNetwork: 'lo' });
  expect(byName.choice.network?.conf.name).toBe('lo');
});

test('Networks extends a list by the plugin files in a directory of its name', async () => {
  await using world = await makeWorld();
  await Promise.all(['ptp', 'tuning', 'sbr'].map((type) => world.plugin(type)));
  await world.conf('10-a.conflist', list('a', 'ptp'));
  await mkdir(join(world.net, 'a'));
  await world.conf('a/20.conf', { type: 'sbr' });
  await world.conf('a/10.conf', { type: 'tuning' });
  await world.conf('a/30.json', { type: 'never' });
  await using networks = await world.open();
  expect(networks.choice.network?.conf.plugins.map(({ type }) => type)).toEqual(['ptp', 'tuning', 'sbr']);
  await world.conf('a/20.conf', {});
  await networks.reload();
  expect(networks.inventory.problems[0]?.reason).toBe('a/20.conf: type: undefined is not the name of a plugin');
});

/** Waits for what the watch should bring about by itself; the limit is there for a slow machine and is no promise. */
const seen = (check: () => void) => vi.waitFor(check, { timeout: 4_000, interval: 20 });

test('Networks follows the files', async () => {
  await using world = await makeWorld();
  await world.plugin('ptp');
  await using networks = await world.open();
  await world.conf('20-b.conflist', list('b', 'ptp'));
  await seen(() => expect(networks.choice.network?.conf.name).toBe('b'));
  await world.conf('10-a.conflist.tmp', list('a', 'ptp'));
  await rename(join(world.net, '10-a.conflist.tmp'), join(world.net, '10-a.conflist'));
  await seen(() => expect(networks.choice.network?.conf.name).toBe('a'));
  await rm(join(world.bin, 'ptp'));
  await seen(() => expect(networks.choice.why).toContain('plugin ptp was not found'));
  await world.plugin('ptp', 0o644);
  await seen(() => expect(networks.choice.why).toContain('is not executable'));
  await chmod(join(world.bin, 'ptp'), 0o755);
  await seen(() => expect(networks.choice.network?.conf.name).toBe('a'));
});

test('Networks follows directories that come, go and are replaced', async () => {
  await using world = await makeWorld();
  await world.plugin('ptp');
  const deep = join(world.net, 'later', 'net.d');
  await using networks = await world.open({ networkDir: deep });
  await mkdir(deep, { recursive: true });
  await seen(() => expect(networks.choice.why).toContain('no network in'));
  await world.conf('later/net.d/10-a.conflist', list('a', 'ptp'));
  await seen(() => expect(networks.choice.network?.conf.name).toBe('a'));
  await rename(deep, `${deep}.old`);
  await seen(() => expect(networks.choice.why).toContain('does not exist'));
  await mkdir(deep);
  await world.conf('later/net.d/10-c.conflist', list('c', 'ptp'));
  await seen(() => expect(networks.choice.network?.conf.name).toBe('c'));
});

test('fresh() sees what was just written', async () => {
  await using world = await makeWorld();
  await world.plugin('ptp');
  await using networks = await world.open();
  await world.conf('10-a.conflist', list('a', 'ptp'));
  expect((await networks.fresh()).network?.conf.name).toBe('a');
});
