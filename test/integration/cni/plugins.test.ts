import { statSync } from 'node:fs';
import { mkdir, mkdtempDisposable, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { newId } from '#base/id.ts';
import { silentLog } from '#base/log.ts';
import { MNT, umountAsync } from '#base/sys.ts';
import { type Attachment, Cni, type CniSettings, type PodNetwork } from '../../../cni/cni.ts';
import { failure, testSettings } from '../../fakes/cni-plugin-network.ts';
import { mark, subnetOf } from '../../support/mark.ts';

const PLUGIN_DIRS = ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'];

const options = () => ({ signal: AbortSignal.timeout(30_000) });

const sh = async (file: string, ...args: string[]): Promise<string> => (await run(file, args, options())).stdout;

/** A bridge network of the real plugins, with its leases in a directory of the test, and pods with network namespaces. */
async function makeNetwork(
  ipam: object,
  {
    chain = [],
    capabilities = {},
    cniVersion = '1.0.0',
    ...settings
  }: { chain?: object[]; capabilities?: object; cniVersion?: string } & Partial<CniSettings> = {},
) {
  const root = await mkdtempDisposable(join(tmpdir(), 'cni-real-'));
  const name = `${mark()}n`;
  const bridge = `${mark()}b`;
  const leases = join(root.path, 'leases');
  const networkDir = join(root.path, 'net.d');
  await mkdir(networkDir);
  const first = { type: 'bridge', bridge, isGateway: true, hairpinMode: true, capabilities, ipam: { type: 'host-local', dataDir: leases, ...ipam } };
  await writeFile(join(networkDir, '10-net.conflist'), JSON.stringify({ cniVersion, name, plugins: [first, ...chain] }));
  const cni = await Cni.open({
    networkDir,
    pluginDirs: PLUGIN_DIRS,
    cacheDir: join(root.path, 'cache'),
    settings: { ...testSettings, ...settings },
    log: silentLog,
  });
  let count = 0;
  const made = new Set<string>();
  const planned: Attachment[] = [];
  const removeNetns = async (netns: string): Promise<void> => {
    if (!made.delete(netns)) return;
    await umountAsync(netns, MNT.DETACH);
    await rm(netns);
  };
  return {
    cni,
    bridge,
    async pod(more: Partial<PodNetwork> = {}) {
      count += 1;
      const netns = join(root.path, `netns${count}`);
      await writeFile(netns, '');
      await sh('unshare', `--net=${netns}`, 'true');
      made.add(netns);
      const pod: PodNetwork = { id: newId(), netns, namespace: 'shop', name: `web-${count}`, uid: 'u', portMappings: [], annotations: {}, ...more };
      return { pod, netns, removeNetns: () => removeNetns(netns) };
    },
    async plan(pod: PodNetwork): Promise<Attachment> {
      const attachment = await cni.plan(pod, options());
      planned.push(attachment);
      return attachment;
    },
    /** Addresses given out, and interfaces on the bridge. */
    async left(): Promise<string[]> {
      const names = await readdir(join(leases, name)).catch(() => []);
      // host-local that is killed between making its file and filling it leaves an empty one, which no DEL can tell whose it is.
      const files = names.filter((file) => statSync(join(leases, name, file)).size > 0);
      const ports = JSON.parse((await sh('ip', '-j', 'link', 'show', 'master', bridge).catch(() => '')) || '[]') as { ifname: string }[];
      return [...files.filter((file) => file !== 'lock' && !file.startsWith('last_reserved_ip')), ...ports.map(({ ifname }) => ifname)];
    },
    [Symbol.asyncDispose]: async () => {
      for (const attachment of planned) await cni.detach(attachment, options()); // for a test that failed half way
      for (const netns of made) await removeNetns(netns);
      await sh('ip', 'link', 'del', bridge).catch(() => ''); // the plugins leave it to the next pod
      await cni[Symbol.asyncDispose]();
      await root.remove();
    },
  };
}

const range = () => ({ ranges: [[{ subnet: `${subnetOf(mark())}.0/24` }]], routes: [{ dst: '0.0.0.0/0' }] });

const PORTMAP = { type: 'portmap', capabilities: { portMappings: true } };

async function addresses(netns: string): Promise<string[]> {
  const [link] = JSON.parse(await sh('nsenter', `--net=${netns}`, 'ip', '-j', 'addr', 'show', 'dev', 'eth0')) as [
    { addr_info: { scope: string; local: string }[] },
  ];
  return link.addr_info.filter(({ scope }) => scope === 'global').map(({ local }) => local);
}

const natRules = () => sh('iptables-save', '-t', 'nat');

test('attach() gives the pod an address and its ports, detach() takes them away, twice', async () => {
  await using network = await makeNetwork(range(), { chain: [PORTMAP] });
  const { pod, netns } = await network.pod({ portMappings: [{ hostPort: 41_234, containerPort: 80, protocol: 'tcp', hostIP: '' }] });
  const { attachment, ips } = await network.cni.attach(await network.plan(pod), options());
  expect(ips).toEqual(await addresses(netns));
  expect(ips).toEqual([expect.stringMatching(new RegExp(`^${subnetOf(mark()).replaceAll('.', '\\.')}\\.`))]);
  expect(await natRules()).toMatch(new RegExp(`--dport 41234 .*--to-destination ${ips[0]}:80`));
  expect(await network.left()).toHaveLength(2);
  await network.cni.detach(attachment, options());
  await network.cni.detach(attachment, options());
  expect(await network.left()).toEqual([]);
  expect(await natRules()).not.toContain(pod.id);
});

test.each(['0.2.0', '0.3.1', '0.4.0'])('attach() and detach() work with a network in CNI %s', async (cniVersion) => {
  await using network = await makeNetwork({ subnet: `${subnetOf(mark())}.0/24` }, { cniVersion });
  const { pod, netns } = await network.pod();
  const { attachment, ips } = await network.cni.attach(await network.plan(pod), options());
  expect(ips).toEqual(await addresses(netns));
  await network.cni.detach(attachment, options());
  expect(await network.left()).toEqual([]);
});

test('detach() leaves nothing when the network namespace is gone', async () => {
  await using network = await makeNetwork(range(), { chain: [PORTMAP] });
  const { pod, removeNetns } = await network.pod({ portMappings: [{ hostPort: 41_235, containerPort: 80, protocol: 'udp', hostIP: '' }] });
  const { attachment } = await network.cni.attach(await network.plan(pod), options());
  await removeNetns();
  await network.cni.detach(attachment, options());
  expect(await network.left()).toEqual([]);
  expect(await natRules()).not.toContain(pod.id);
});

test('attach() passes on the pod cidr, one range for each family', async () => {
  await using network = await makeNetwork({}, { capabilities: { ipRanges: true } });
  const subnet = subnetOf(`${mark()}-cidr`);
  network.cni.setPodCidr(`${subnet}.0/24,fd00:${mark().slice(2)}::/64`.replace(/fd00:(..)(....)::/, 'fd00:$1:$2::'));
  const { pod, netns } = await network.pod();
  const { attachment, ips } = await network.cni.attach(await network.plan(pod), options());
  expect(ips).toEqual([`${subnet}.2`, expect.stringMatching(/^fd00:.*::2$/)]);
  expect((await addresses(netns)).sort()).toEqual([...ips].sort());
  await network.cni.detach(attachment, options());
  expect(await network.left()).toEqual([]);
});

test('attach() limits the bandwidth that the annotations name', async () => {
  await using network = await makeNetwork(range(), { chain: [{ type: 'bandwidth', capabilities: { bandwidth: true } }] });
  const { pod } = await network.pod({ annotations: { 'kubernetes.io/ingress-bandwidth': '10M', 'kubernetes.io/egress-bandwidth': '20M' } });
  const { attachment } = await network.cni.attach(await network.plan(pod), options());
  const disciplines = await sh('tc', 'qdisc', 'show');
  expect(disciplines).toContain('rate 10Mbit');
  expect(disciplines).toContain('rate 20Mbit');
  await network.cni.detach(attachment, options());
  expect(await network.left()).toEqual([]);
});

test('attach() says why when the addresses are used up, and detach() still works', async () => {
  const subnet = `${subnetOf(mark())}.0/30`; // one address beside the gateway
  await using network = await makeNetwork({ ranges: [[{ subnet }]] });
  const first = await network.pod();
  const { attachment } = await network.cni.attach(await network.plan(first.pod), options());
  const second = await network.pod();
  const planned = await network.plan(second.pod);
  await expect(network.cni.attach(planned, options())).rejects.toThrow(
    /^CNI ADD by plugin bridge \(network bt\w+n\): .*no IP addresses available.* \(code \d+\)/,
  );
  await network.cni.detach(planned, options());
  await network.cni.detach(attachment, options());
  expect(await network.left()).toEqual([]);
});

test.each([2, 6, 10, 15, 20])('detach() leaves nothing when attach() was cut off after %i ms', async (addTimeoutMs) => {
  await using network = await makeNetwork(range(), { chain: [PORTMAP], addTimeoutMs });
  const { pod } = await network.pod({ portMappings: [{ hostPort: 41_236, containerPort: 80, protocol: 'tcp', hostIP: '' }] });
  const planned = await network.plan(pod);
  const err = await failure(network.cni.attach(planned, options()));
  if (err !== undefined) expect(err).toBeInstanceOf(CriError);
  await network.cni.detach(planned, options());
  expect(await network.left()).toEqual([]);
  expect(await natRules()).not.toContain(pod.id);
});
