import { describe, expect, test } from 'vitest';
import { NamespaceMode } from '../../../../proto/cri.ts';
import { sysctlNamespace, sysctlPath, translateSysctls, validateSysctls } from '../../../../server/oci/sysctl.ts';
import { namespaceOptions } from './requests.ts';

test.each([
  ['net.ipv4.ip_forward', 'net/ipv4/ip_forward'],
  ['net/ipv4/conf/eth0.100/forwarding', 'net/ipv4/conf/eth0.100/forwarding'],
  ['net.ipv4.conf.eth0/100.forwarding', 'net/ipv4/conf/eth0.100/forwarding'],
  ['kernel.shm_rmid_forced', 'kernel/shm_rmid_forced'],
  ['net', undefined],
  ['net..core', undefined],
  ['net/../kernel/hostname', undefined],
  ['net.//.kernel', undefined],
  ['net.ipv4.x+kernel.core_pattern=|/bin/sh', undefined],
  ['net.ipv4 .x', undefined],
  ['net.ipv4.\nx', undefined],
  ['', undefined],
])('sysctlPath() reads %j as %s', (name, path) => {
  expect(sysctlPath(name)).toBe(path);
});

test.each([
  ['net.core.somaxconn', 'network'],
  ['kernel.shmmax', 'ipc'],
  ['kernel.msgmnb', 'ipc'],
  ['kernel.sem', 'ipc'],
  ['fs.mqueue.msg_max', 'ipc'],
  ['kernel.domainname', 'uts'],
  ['kernel.hostname', undefined],
  ['kernel.core_pattern', undefined],
  ['vm.swappiness', undefined],
  ['fs.file-max', undefined],
])('sysctlNamespace() puts %s into %s', (name, kind) => {
  expect(sysctlNamespace(name)).toBe(kind);
});

describe('validateSysctls()', () => {
  const own = namespaceOptions();
  test('takes values with blanks and tabs', () => {
    expect(() => validateSysctls('f', { 'net.ipv4.ip_local_port_range': '1024\t65535', 'kernel.sem': '250 32000 32 128' }, own)).not.toThrow();
    expect(() => validateSysctls('f', { 'net.core.somaxconn': '1024' }, null)).not.toThrow();
  });

  test.each([
    ["the host's own", { 'kernel.core_pattern': '|/bin/sh' }, own, 'f: "kernel.core_pattern" is no sysctl of a namespace'],
    ['a line of more', { 'net.core.somaxconn': '1\n2' }, own, 'f[net.core.somaxconn]'],
    ['an empty value', { 'net.core.somaxconn': '' }, own, 'f[net.core.somaxconn]'],
    ['net on the host network', { 'net.core.somaxconn': '1' }, namespaceOptions({ network: NamespaceMode.NODE }), 'would be set on the node'],
    ['uts on the host network', { 'kernel.domainname': 'x' }, namespaceOptions({ network: NamespaceMode.NODE }), 'would be set on the node'],
    ['ipc in the host ipc', { 'kernel.shmmax': '1' }, namespaceOptions({ ipc: NamespaceMode.NODE }), 'would be set on the node'],
  ])('refuses %s', (_what, sysctls, namespaces, message) => {
    expect(() => validateSysctls('f', sysctls as unknown as Record<string, string>, namespaces)).toThrow(message);
  });
});

test('translateSysctls() shifts the groups of ping_group_range into the user namespace', () => {
  const mapping = { host_id: 65_536, container_id: 0, length: 1_000 };
  const maps = { uids: [mapping], gids: [mapping] };
  const ping = (value: string) => translateSysctls({ 'net.ipv4.ping_group_range': value }, maps)['net.ipv4.ping_group_range'];
  expect(ping('0 10')).toBe('65536 65546');
  expect(ping('0 2147483647')).toBe('65536 66535');
  expect(ping('1 0')).toBe('1 0');
  expect(ping('5000 6000')).toBe('1 0');
  expect(translateSysctls({ 'net.core.somaxconn': '10 20' }, maps)).toEqual({ 'net.core.somaxconn': '10 20' });
  expect(translateSysctls({ 'net.ipv4.ping_group_range': '0 1' }, undefined)).toEqual({ 'net.ipv4.ping_group_range': '0 1' });
});
