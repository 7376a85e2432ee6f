import { expect, test } from 'vitest';
import { parseConf, parsePluginConf, speaks } from '../../../cni/conf.ts';

const json = JSON.stringify;

test('parseConf() reads a list', () => {
  const plugins = [
    { type: 'bridge', ipam: { type: 'host-local' } },
    { type: 'portmap', capabilities: { portMappings: true } },
  ];
  expect(parseConf(json({ cniVersion: '1.0.0', name: 'pod-net', plugins }))).toEqual({
    conf: { name: 'pod-net', cniVersion: '1.0.0', plugins, disableCheck: false, disableGC: false },
    offered: ['1.0.0'],
    wantsMorePlugins: true,
  });
});

test('parseConf() makes a single plugin a list of one', () => {
  const { conf, wantsMorePlugins } = parseConf(json({ cniVersion: '0.3.1', name: 'a', type: 'ptp', mtu: 1400 }));
  expect(conf.plugins).toEqual([{ cniVersion: '0.3.1', name: 'a', type: 'ptp', mtu: 1400 }]);
  expect(wantsMorePlugins).toBe(false);
});

test.each([
  [{}, '0.1.0'],
  [{ cniVersion: '' }, '0.1.0'],
  [{ cniVersion: '0.4.0' }, '0.4.0'],
  [{ cniVersion: '0.4.0', cniVersions: ['1.0.0', '1.1.0', '2.0.0'] }, '1.1.0'],
  [{ cniVersion: '2.0.0', cniVersions: ['1.0.0'] }, '1.0.0'],
])('parseConf() speaks the newest understood version of %j', (versions, expected) => {
  expect(parseConf(json({ name: 'a', type: 'b', ...versions })).conf.cniVersion).toBe(expected);
});

test('parseConf() takes flags as booleans and as strings', () => {
  const { conf, wantsMorePlugins } = parseConf(
    json({ name: 'a', plugins: [{ type: 'b' }], disableCheck: 'TRUE', disableGC: true, loadOnlyInlinedPlugins: 'true' }),
  );
  expect([conf.disableCheck, conf.disableGC, wantsMorePlugins]).toEqual([true, true, false]);
});

test.each([
  ['', 'is empty'],
  ['{', 'is not JSON'],
  ['[]', 'is not a JSON object'],
  [json({ type: 'b' }), 'name: undefined is not a network name'],
  [json({ name: '-a', type: 'b' }), 'name: "-a" is not a network name'],
  [json({ name: 'a/b', type: 'b' }), 'name: "a/b" is not a network name'],
  [json({ name: 'a', plugins: 'b' }), 'plugins: "b" is not a list'],
  [json({ name: 'a', plugins: [] }), 'plugins: names no plugin'],
  [json({ name: 'a', loadOnlyInlinedPlugins: true }), 'plugins: names no plugin'],
  [json({ name: 'a', plugins: ['b'] }), 'plugins[0]: "b" is not an object'],
  [json({ name: 'a', plugins: [{ type: 'b' }, {}] }), 'plugins[1].type: undefined is not the name of a plugin'],
  [json({ name: 'a', type: '../evil' }), 'type: "../evil" is not the name of a plugin'],
  [json({ name: 'a', type: '..' }), 'type: ".." is not the name of a plugin'],
  [json({ name: 'a', type: 'b', capabilities: [] }), 'capabilities: [] is not an object'],
  [json({ name: 'a', type: 'b', cniVersion: '9.0.0' }), 'cniVersion: "9.0.0" is not understood'],
  [json({ name: 'a', type: 'b', cniVersion: 1 }), 'cniVersion: 1 is not understood'],
  [json({ name: 'a', type: 'b', cniVersions: '1.0.0' }), 'cniVersions: "1.0.0" is not a list'],
  [json({ name: 'a', type: 'b', disableCheck: 'maybe' }), 'disableCheck: "maybe" is neither true nor false'],
])('parseConf() refuses %s', (text, message) => {
  expect(() => parseConf(text)).toThrow(message);
});

test('parsePluginConf() wants a type', () => {
  expect(parsePluginConf('{"type":"tuning","x":1}')).toEqual({ type: 'tuning', x: 1 });
  expect(() => parsePluginConf('{}')).toThrow('type: undefined is not the name of a plugin');
});

test('speaks() orders versions', () => {
  expect([speaks('0.3.1', '0.4.0'), speaks('0.4.0', '0.4.0'), speaks('1.1.0', '0.4.0')]).toEqual([false, true, true]);
});
