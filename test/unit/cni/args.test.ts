import { expect, test } from 'vitest';
import { checkArgs, pluginEnv } from '../../../cni/args.ts';
import type { PodNetwork } from '../../../cni/pod-network.ts';

const pod: PodNetwork = { id: 'abc1', netns: '/run/netns/x', namespace: 'shop', name: 'web-0', uid: 'u-1', portMappings: [], annotations: {} };

test('pluginEnv() says what the specification asks for', () => {
  expect(pluginEnv('ADD', pod, { ifName: 'eth0', netns: pod.netns, pluginDirs: ['/opt/cni/bin', '/usr/lib/cni'] })).toEqual({
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: 'abc1',
    CNI_NETNS: '/run/netns/x',
    CNI_IFNAME: 'eth0',
    CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc1;K8S_POD_UID=u-1',
    CNI_PATH: '/opt/cni/bin:/usr/lib/cni',
  });
});

test.each(['namespace', 'name', 'uid'] as const)('checkArgs() refuses a %s that would add an argument', (field) => {
  expect(() => checkArgs(pod)).not.toThrow();
  expect(() => checkArgs({ ...pod, [field]: 'a;IP=10.0.0.1' })).toThrow(`config.metadata.${field}: "a;IP=10.0.0.1" holds a character`);
});
