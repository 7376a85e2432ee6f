import { expect, test } from 'vitest';
import type { NetworkConf } from '../../../cni/conf.ts';
import { withPortMapping } from '../../../cni/host-ports.ts';
import { fakePod } from '../../fakes/cni-plugin-network.ts';

const pod = { ...fakePod, portMappings: [{ hostPort: 80, containerPort: 80, protocol: 'tcp', hostIP: '' } as const] };
const conf = (more: Partial<NetworkConf> = {}): NetworkConf => ({
  name: 'n',
  cniVersion: '1.0.0',
  disableCheck: false,
  disableGC: false,
  plugins: [{ type: 'ptp' }],
  ...more,
});
const found = async (): Promise<string> => '/opt/cni/bin/portmap';

test('withPortMapping() puts portmap behind a chain that maps no ports, for a pod that wants some', async () => {
  const { plugins } = await withPortMapping(conf(), pod, found);
  expect(plugins).toEqual([{ type: 'ptp' }, { type: 'portmap', capabilities: { portMappings: true }, snat: true }]);
});

test('withPortMapping() leaves alone what maps ports itself, and pods without host ports', async () => {
  const own = conf({ plugins: [{ type: 'cilium', capabilities: { portMappings: true } }] });
  expect(await withPortMapping(own, pod, found)).toBe(own);
  const plain = conf();
  const idle = { ...pod, portMappings: [{ hostPort: 0, containerPort: 80, protocol: 'tcp', hostIP: '' } as const] };
  expect(await withPortMapping(plain, idle, found)).toBe(plain);
});

test('withPortMapping() says why it cannot', async () => {
  await expect(withPortMapping(conf(), pod, () => Promise.reject(new Error('plugin portmap was not found in /opt/cni/bin')))).rejects.toMatchObject({
    kind: 'failedPrecondition',
    message: 'host port 80: no plugin of network n maps host ports, and portmap cannot be added',
    cause: expect.objectContaining({ message: 'plugin portmap was not found in /opt/cni/bin' }),
  });
  await expect(withPortMapping(conf({ cniVersion: '0.2.0' }), pod, found)).rejects.toThrow('portmap cannot be added to a chain in CNI 0.2.0');
});
