import { expect, test } from 'vitest';
import { capabilityArgs, parsePodCidr, runtimeConfig } from '../../../cni/capabilities.ts';
import type { NetworkConf } from '../../../cni/conf.ts';
import type { PodNetwork } from '../../../cni/pod-network.ts';

const pod: PodNetwork = {
  id: 'abc1',
  netns: '/run/netns/x',
  namespace: 'shop',
  name: 'web-0',
  uid: 'u-1',
  portMappings: [
    { hostPort: 0, containerPort: 80, protocol: 'tcp', hostIP: '' },
    { hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '' },
    { hostPort: 53, containerPort: 53, protocol: 'udp', hostIP: '127.0.0.1' },
  ],
  annotations: { 'kubernetes.io/ingress-bandwidth': '1M', team: 'a' },
  cgroupPath: '/kubepods/pod1',
  dns: { servers: ['10.0.0.10'], searches: ['svc'], options: ['ndots:5'] },
};

const network = (...capabilities: Record<string, boolean>[]): NetworkConf => ({
  name: 'n',
  cniVersion: '1.0.0',
  disableCheck: false,
  disableGC: false,
  plugins: capabilities.map((declared, index) => ({ type: `p${index}`, capabilities: declared })),
});

test('capabilityArgs() has a value for each declared capability', () => {
  const all = { portMappings: true, bandwidth: true, ipRanges: true, dns: true, cgroupPath: true, 'io.kubernetes.cri.pod-annotations': true, mac: true };
  expect(capabilityArgs(network(all), pod, '10.1.0.0/24, fd00::/64')).toEqual({
    portMappings: [
      { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
      { hostPort: 53, containerPort: 53, protocol: 'udp', hostIP: '127.0.0.1' },
    ],
    bandwidth: { ingressRate: 1_000_000, ingressBurst: 2_147_483_647 },
    ipRanges: [[{ subnet: '10.1.0.0/24' }], [{ subnet: 'fd00::/64' }]],
    dns: pod.dns,
    cgroupPath: '/kubepods/pod1',
    'io.kubernetes.cri.pod-annotations': pod.annotations,
  });
});

test('capabilityArgs() leaves out what nobody declares, and what is empty', () => {
  expect(capabilityArgs(network({}, { portMappings: false }), pod, '10.1.0.0/24')).toEqual({});
  const { dns: _dns, cgroupPath: _path, ...bare } = pod;
  const all = { portMappings: true, bandwidth: true, ipRanges: true, dns: true, cgroupPath: true, 'io.kubernetes.cri.pod-annotations': true };
  expect(capabilityArgs(network(all), { ...bare, portMappings: [], annotations: {} }, '')).toEqual({});
});

test('capabilityArgs() refuses a bad bandwidth on a network that does not limit it', () => {
  expect(() => capabilityArgs(network({}), { ...pod, annotations: { 'kubernetes.io/egress-bandwidth': 'x' } }, '')).toThrow('is not a quantity');
});

test('runtimeConfig() gives each plugin its own', () => {
  const { plugins } = network({ portMappings: true }, { dns: true }, {});
  const args = { portMappings: [1], dns: { servers: [] } };
  expect(plugins.map((plugin) => runtimeConfig(plugin, args))).toEqual([{ portMappings: [1] }, { dns: { servers: [] } }, undefined]);
});

test.each(['', '10.1.0.0', '10.1.0.0/33', 'fd00::/129', '10.1.0.0/24,', '10.1.0.0/24/1', 'x/24', '10.1.0.0/-1'])('parsePodCidr() refuses %j', (text) => {
  expect(() => parsePodCidr(text)).toThrow('is not an address range');
});
