import { mkdir, mkdtempDisposable, readdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLog } from '#base/log.ts';
import { Cni, type CniSettings, type PodNetwork } from '../../cni/cni.ts';
import { type FakeCall, installFakePlugin, readFakeCalls } from './cni-plugin.ts';

export const testSettings: CniSettings = {
  defaultNetwork: '',
  additionalNetworks: [],
  addTimeoutMs: 30_000,
  delTimeoutMs: 30_000,
  parallel: 0,
  statusGraceMs: 10_000,
  hostPorts: true,
};

/** A `Cni` on a network `pod-net` of fake plugins of the types `fake0`, `fake1`, …, each with its keys of configuration. */
export async function makeFakeNetwork(
  plugins: readonly object[],
  { cniVersion = '1.0.0', podCidr = '', ...settings }: Partial<CniSettings> & { cniVersion?: string; podCidr?: string } = {},
) {
  const root = await mkdtempDisposable(join(tmpdir(), 'cni-'));
  const [net, bin, leases, record, counter] = ['net.d', 'bin', 'leases', 'calls', 'counter'].map((name) => join(root.path, name)) as [
    string,
    string,
    string,
    string,
    string,
  ];
  await Promise.all([net, bin, leases].map((dir) => mkdir(dir)));
  await Promise.all(plugins.map((_, index) => installFakePlugin(bin, `fake${index}`)));
  const common = { leases, record, counter };
  const conf = { cniVersion, name: 'pod-net', plugins: plugins.map((plugin, index) => ({ type: `fake${index}`, ...common, ...plugin })) };
  await writeFile(join(net, '10-pod-net.conflist'), JSON.stringify(conf));
  const observed: string[] = [];
  const cni = await Cni.open({
    networkDir: net,
    pluginDirs: [bin],
    cacheDir: join(root.path, 'cache'),
    podCidr,
    settings: { ...testSettings, ...settings },
    log: silentLog,
    observe: ({ verb, plugin, seconds, error }) => verb !== 'VERSION' && observed.push(`${verb} ${plugin} ${seconds > 0} ${error === undefined}`),
  });
  return {
    cni,
    net,
    bin,
    cache: join(root.path, 'cache'),
    observed,
    /** What is set up. */
    leases: () => readdir(leases),
    calls: (): Promise<FakeCall[]> => readFakeCalls(record),
    [Symbol.asyncDispose]: async () => {
      await cni[Symbol.asyncDispose]();
      await root.remove();
    },
  };
}

/** A pod whose network namespace is the test's own: the fake does not touch it. */
export const fakePod: PodNetwork = { id: 'abc1', netns: '/proc/self/ns/net', namespace: 'shop', name: 'web-0', uid: 'u-1', portMappings: [], annotations: {} };

/** What the promise rejects with; `undefined` when it does not. */
export const failure = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => undefined,
    (err: unknown) => err,
  );
