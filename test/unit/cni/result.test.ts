import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CNI_VERSIONS } from '../../../cni/conf.ts';
import { addressesOf, parseResult } from '../../../cni/result.ts';

const json = JSON.stringify;

test('parseResult() keeps all of a result in the network’s version', () => {
  const result = { cniVersion: '1.1.0', interfaces: [{ name: 'eth0', mtu: 1400 }], ips: [{ address: '10.1.0.2/24' }], own: { key: 1 } };
  expect(parseResult(json(result), '1.1.0')).toEqual(result);
});

test('parseResult() takes the network’s version where the plugin names none', () => {
  expect(parseResult('{"ips":[]}', '0.4.0')).toEqual({ cniVersion: '0.4.0', ips: [] });
});

test('parseResult() converts a 0.2 result for a 1.0 network', () => {
  const old = {
    cniVersion: '0.2.0',
    ip4: { ip: '10.1.0.2/24', gateway: '10.1.0.1', routes: [{ dst: '0.0.0.0/0' }] },
    ip6: { ip: 'fd00::2/64', routes: [{ dst: '::/0', gw: 'fd00::1' }] },
    dns: { nameservers: ['10.1.0.1'] },
  };
  expect(parseResult(json(old), '1.0.0')).toEqual({
    cniVersion: '1.0.0',
    ips: [{ address: '10.1.0.2/24', gateway: '10.1.0.1' }, { address: 'fd00::2/64' }],
    routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0', gw: 'fd00::1' }],
    dns: { nameservers: ['10.1.0.1'] },
  });
});

test('parseResult() puts in and takes out the family of an address between 0.4 and 1.0', () => {
  const modern = { cniVersion: '1.0.0', ips: [{ address: '10.1.0.2/24', interface: 0 }, { address: 'fd00::2/64' }] };
  const older = parseResult(json(modern), '0.4.0');
  expect(older).toEqual({
    cniVersion: '0.4.0',
    ips: [
      { version: '4', address: '10.1.0.2/24', interface: 0 },
      { version: '6', address: 'fd00::2/64' },
    ],
  });
  expect(parseResult(json(older), '1.0.0')).toEqual(modern);
});

test('parseResult() converts a 1.0 result for a 0.2 network', () => {
  const modern = { cniVersion: '1.0.0', ips: [{ address: '10.1.0.2/24', gateway: '10.1.0.1' }], routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }] };
  expect(parseResult(json(modern), '0.2.0')).toEqual({
    cniVersion: '0.2.0',
    ip4: { ip: '10.1.0.2/24', gateway: '10.1.0.1', routes: [{ dst: '0.0.0.0/0' }] },
  });
});

test.each([
  [' \n', 'exited with 0 but printed no result'],
  ['Usage: x', 'printed "Usage: x" where a result in JSON was expected'],
  ['[]', 'printed [] where a result was expected'],
  ['{"cniVersion":"3.0.0"}', 'answered in CNI version "3.0.0", which is not understood'],
  ['{"cniVersion":"1.0.0","ips":{}}', 'answered with ips: {}, which is not a list'],
  ['{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2"}]}', 'answered with ips[0].address: "10.1.0.2", which is not an address with its prefix length'],
  ['{"cniVersion":"1.0.0","ips":[7]}', 'answered with ips[0].address: undefined'],
  ['{"cniVersion":"0.2.0","ip4":"10.1.0.2/24"}', 'answered with ip4: "10.1.0.2/24", which is not an object'],
  ['{"cniVersion":"0.2.0","ip4":{"ip":"x/24"}}', 'answered with ip4.ip: "x/24"'],
])('parseResult() refuses %s', (stdout, message) => {
  expect(() => parseResult(stdout, '1.0.0')).toThrow(message);
});

test('parseResult() finds the same addresses in every version', () => {
  const address = fc.oneof(
    fc.ipV4().map((ip) => `${ip}/24`),
    fc.ipV6().map((ip) => `${ip}/64`),
  );
  const version = fc.constantFrom(...CNI_VERSIONS.filter((name) => name >= '0.3.0'));
  fc.assert(
    fc.property(fc.array(address, { maxLength: 5 }), version, version, (addresses, from, to) => {
      const given = { cniVersion: from, ips: addresses.map((one) => ({ version: one.includes(':') ? '6' : '4', address: one })) };
      expect(addressesOf(parseResult(json(given), to), 'eth0')).toEqual(addresses.map((one) => one.split('/')[0]));
    }),
  );
});

const links = [{ name: 'cni0' }, { name: 'veth1' }, { name: 'eth0', sandbox: '/run/netns/a' }, { name: 'net1', sandbox: '/run/netns/a' }];

test.each([
  [
    'those of the interface alone',
    links,
    [
      { address: '10.1.0.1/24', interface: 0 },
      { address: '10.2.0.2/24', interface: 3 },
      { address: 'fd00::2/64', interface: 2 },
    ],
    ['fd00::2'],
  ],
  ['those without an interface', links, [{ address: '10.1.0.2/24' }], ['10.1.0.2']],
  ['those of an interface that is not listed', undefined, [{ address: '10.1.0.2/24', interface: 1 }], ['10.1.0.2']],
  ['those of another interface in the pod when there is none else', links, [{ address: '10.2.0.2/24', interface: 3 }], ['10.2.0.2']],
  ['none of the host’s', links, [{ address: '10.1.0.1/24', interface: 0 }], []],
])('addressesOf() gives %s', (_what, interfaces, ips, expected) => {
  expect(addressesOf({ cniVersion: '1.0.0', interfaces, ips }, 'eth0')).toEqual(expected);
});
