import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, mkdtempDisposable, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { run } from '#base/exec.ts';
import { newId } from '#base/id.ts';
import { silentLog } from '#base/log.ts';
import { MNT, umountAsync } from '#base/sys.ts';
import { type Attachment, Cni, type PodNetwork } from '../../../cni/cni.ts';
import { testSettings } from '../../fakes/cni-plugin-network.ts';
import { mark, subnetOf } from '../../support/mark.ts';

const CONTRIB = join(import.meta.dirname, '../../../contrib/cni');
const PLUGIN_DIRS = ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'];

const signal = () => AbortSignal.timeout(30_000);
const sh = async (file: string, ...args: string[]): Promise<string> => (await run(file, args, { signal: signal() })).stdout;
const inNetns = (netns: string, ...command: string[]): Promise<string> => sh('nsenter', `--net=${netns}`, ...command);

/** Ranges of the samples and what stands for them in this test, so that no two files of tests meet. */
const own = subnetOf(`${mark()}-contrib`);
const own6 = `fd00:${mark().slice(2, 6)}:${mark().slice(4, 8)}`;

function adapt(text: string, { bridge, master, name, dataDir }: { bridge: string; master: string; name: string; dataDir: string }): string {
  const conf = JSON.parse(
    text
      .replaceAll('10.87.0.0/16', `${own}.0/24`)
      .replaceAll('fd00:87::', `${own6}::`)
      .replaceAll(/192\.0\.2|198\.51\.100/g, own),
  ) as { name: string; plugins: { bridge?: string; master?: string; mtu?: number; ipam?: { type: string; dataDir?: string } }[] };
  conf.name = name;
  for (const plugin of conf.plugins) {
    if (plugin.bridge !== undefined) plugin.bridge = bridge;
    if (plugin.master !== undefined) plugin.master = master;
    if (plugin.mtu === 9000) delete plugin.mtu; // more than the test's cable takes
    if (plugin.ipam?.type === 'host-local') plugin.ipam.dataDir = dataDir;
  }
  return JSON.stringify(conf);
}

async function makeWorld(sample: string) {
  const root = await mkdtempDisposable(join(tmpdir(), 'contrib-'));
  const [networkDir, dataDir] = [join(root.path, 'net.d'), join(root.path, 'ipam')];
  const [bridge, master, name] = [`${mark()}b`, `${mark()}m`, `${mark()}n`];
  await mkdir(networkDir);
  const [file = ''] = globSync(join(CONTRIB, sample, '*.conflist'));
  await writeFile(join(networkDir, basename(file)), adapt(readFileSync(file, 'utf8'), { bridge, master, name, dataDir }));
  // Stands for the node's card; its other end for the cable.
  await sh('ip', 'link', 'add', master, 'type', 'veth', 'peer', 'name', `${mark()}p`);
  for (const link of [master, `${mark()}p`]) await sh('ip', 'link', 'set', link, 'up');
  const cni = await Cni.open({ networkDir, pluginDirs: PLUGIN_DIRS, cacheDir: join(root.path, 'cache'), settings: testSettings, log: silentLog });
  const made: { netns: string; attachment?: Attachment }[] = [];
  return {
    cni,
    leases: () => (existsSync(join(dataDir, name)) ? readdirSync(join(dataDir, name)).filter((lease) => /^[\d]/.test(lease) || lease.includes(':')) : []),
    async pod(more: Partial<PodNetwork> = {}) {
      const netns = join(root.path, `netns${made.length}`);
      await writeFile(netns, '');
      await sh('unshare', `--net=${netns}`, 'true');
      const entry: (typeof made)[number] = { netns };
      made.push(entry);
      await inNetns(netns, 'ip', 'link', 'set', 'lo', 'up');
      const pod = { id: newId(), netns, namespace: 'shop', name: `web-${made.length}`, uid: 'u', portMappings: [], annotations: {}, ...more };
      const planned = await cni.plan(pod, { signal: signal() });
      entry.attachment = planned;
      const { attachment, ips } = await cni.attach(planned, { signal: signal() });
      entry.attachment = attachment;
      return { netns, ips, attachment, id: pod.id };
    },
    /** Takes all pods off. */
    async clear(): Promise<void> {
      for (const { netns, attachment } of made.splice(0)) {
        if (attachment !== undefined) await cni.detach(attachment, { signal: signal() });
        await umountAsync(netns, MNT.DETACH);
        await rm(netns);
      }
    },
    async [Symbol.asyncDispose]() {
      await this.clear();
      for (const link of [bridge, master]) await sh('ip', 'link', 'del', link).catch(() => '');
      await cni[Symbol.asyncDispose]();
      await root.remove();
    },
  };
}

type World = Awaited<ReturnType<typeof makeWorld>>;
type TestPod = Awaited<ReturnType<World['pod']>>;

/** The first pod is reached by the second, on every address. */
async function expectReachable(from: TestPod, to: TestPod): Promise<void> {
  for (const ip of to.ips)
    await inNetns(
      from.netns,
      'busybox',
      ip.includes(':') ? 'ping6' : 'ping',
      '-c',
      '1',
      '-W',
      '10',
      '-I',
      from.ips.find((own) => own.includes(':') === ip.includes(':')) ?? '',
      ip,
    );
}

async function firewall(id: string): Promise<string> {
  return `${await sh('iptables-save')}${await sh('ip6tables-save')}`
    .split('\n')
    .filter((line) => line.includes(id))
    .join('\n');
}

/** True where the kernel has this kind of link. */
async function hasLinkType(type: string): Promise<boolean> {
  const [link, parent] = [`${mark()}t`, `${mark()}u`];
  await sh('ip', 'link', 'add', parent, 'type', 'veth', 'peer', 'name', `${mark()}v`);
  try {
    await sh('ip', 'link', 'add', link, 'link', parent, 'type', type, ...(type === 'vlan' ? ['id', '100'] : []));
    return true;
  } catch {
    return false;
  } finally {
    await sh('ip', 'link', 'del', parent);
  }
}

const port = { hostPort: 31_234, containerPort: 80, protocol: 'tcp' as const, hostIP: '' };

/** What a sample gives beside addresses. */
const proofs: Record<string, { families: number; link?: string; more?: (world: World, pod: TestPod) => Promise<void> }> = {
  bridge: {
    families: 1,
    more: async (_world, pod) => expect(await firewall(pod.id)).toMatch(/--dport 31234|CNI-DN/),
  },
  'bridge-dual-stack': {
    families: 2,
    more: async (_world, { ips }) => {
      expect(await sh('ip6tables-save', '-t', 'nat')).toMatch(new RegExp(`--dport 31234 .*--to-destination \\[${ips[1]}\\]:80`));
      expect(await sh('iptables-save', '-t', 'nat')).toMatch(new RegExp(`--dport 31234 .*--to-destination ${ips[0]}:80`));
    },
  },
  'bridge-ipv6': { families: 1 },
  'bridge-firewall': {
    families: 1,
    more: async ({ pod: make }, { ips, netns }) => {
      expect(await sh('iptables-save', '-t', 'filter')).toContain(`-A CNI-FORWARD -s ${ips[0]}/32 -j ACCEPT`);
      expect((await inNetns(netns, 'cat', '/proc/sys/net/ipv4/tcp_mtu_probing')).trim()).toBe('1');
      await make({ annotations: { 'kubernetes.io/ingress-bandwidth': '7M' } });
      expect(await sh('tc', 'qdisc', 'show')).toContain('rate 7Mbit');
    },
  },
  ptp: { families: 1, more: async (_world, { ips }) => expect(await sh('ip', 'route')).toMatch(new RegExp(`^${ips[0]} dev veth`, 'm')) },
  macvlan: { families: 1 },
  ipvlan: { families: 1, link: 'ipvlan' },
  vlan: { families: 1, link: 'vlan' },
  static: {
    families: 1,
    more: async (_world, { netns, ips }) => {
      expect(ips).toEqual([`${own}.140`]);
      expect(await inNetns(netns, 'ip', 'link', 'show', 'eth0')).toContain('c2:11:22:33:44:55');
    },
  },
  storage: {
    families: 1,
    more: async (_world, { netns, ips }) => {
      expect(await inNetns(netns, 'ip', 'rule')).toMatch(new RegExp(`from ${ips[0]} lookup 100`));
      expect(await inNetns(netns, 'ip', 'route', 'show', 'table', '100')).toContain('default via');
    },
  },
};

test('every sample has a README and is proven below', () => {
  const samples = globSync(join(CONTRIB, '*/*.conflist')).map((file) => basename(dirname(file)));
  expect(samples.sort()).toEqual(Object.keys(proofs).sort());
  for (const sample of samples) {
    expect(existsSync(join(CONTRIB, sample, 'README.md'))).toBe(true);
    expect(readFileSync(join(CONTRIB, 'README.md'), 'utf8')).toContain(`(${sample}/README.md)`);
  }
});

test.for(Object.keys(proofs))('contrib/cni/%s brings pods together, passes CHECK and leaves nothing', async (sample, { skip }) => {
  const proof = proofs[sample] as (typeof proofs)[string];
  if (proof.link !== undefined && !(await hasLinkType(proof.link))) return skip(`this kernel has no ${proof.link}: npm run test:vm -- networks`);
  await using world = await makeWorld(sample);
  const asked = (address: string, mac: string) => ({ 'io.berth.cni.ips': `${address}/24`, 'io.berth.cni.mac': mac });
  const isStatic = sample === 'static';
  const mapped = sample.startsWith('bridge') || sample === 'ptp';
  const first = await world.pod({ portMappings: mapped ? [port] : [], ...(isStatic && { annotations: asked(`${own}.140`, 'c2:11:22:33:44:55') }) });
  expect(first.ips).toHaveLength(proof.families);
  await proof.more?.(world, first);
  if (sample !== 'vlan') {
    const second = await world.pod(isStatic ? { annotations: asked(`${own}.141`, 'c2:11:22:33:44:56') } : {});
    await expectReachable(second, first);
    // Debian's portmap looks for the rules of both families, also where the pod has one: only a pod without ports is told from a damaged one.
    await world.cni.check(second.attachment, { signal: signal() });
  }
  await world.clear();
  expect(world.leases()).toEqual([]);
  expect(await firewall(first.id)).toBe('');
  for (const ip of first.ips) expect(await sh('ip', 'route')).not.toMatch(new RegExp(`^${ip} `, 'm'));
});

test('a UDP flow to a host port is forgotten when its pod goes', async ({ skip }) => {
  if ((await sh('sh', '-c', 'command -v conntrack').catch(() => '')) === '') return skip('conntrack is not installed');
  await using world = await makeWorld('bridge');
  await world.pod({ portMappings: [{ ...port, protocol: 'udp' }] });
  const flows = () => sh('conntrack', '-L', '-p', 'udp', '--orig-port-dst', '31234').catch(() => '');
  await sh('sh', '-c', `echo hello | socat - UDP4-SENDTO:${own}.1:31234`);
  expect(await flows()).toContain('dport=31234');
  await world.clear();
  expect(await flows()).not.toContain('dport=31234');
});

test('SCTP ports and host addresses of both families are mapped', async () => {
  await using world = await makeWorld('bridge-dual-stack');
  const mapping = (hostPort: number, protocol: 'tcp' | 'sctp', hostIP: string) => ({ hostPort, containerPort: 80, protocol, hostIP });
  const { ips } = await world.pod({ portMappings: [mapping(31_240, 'sctp', ''), mapping(31_241, 'tcp', '127.0.0.1'), mapping(31_242, 'tcp', '::1')] });
  const [v4, v6] = [await sh('iptables-save', '-t', 'nat'), await sh('ip6tables-save', '-t', 'nat')];
  expect(v4).toMatch(new RegExp(`-p sctp -m sctp --dport 31240 .*--to-destination ${ips[0]}:80`));
  expect(v6).toMatch(new RegExp(`-p sctp -m sctp --dport 31240 .*--to-destination \\[${ips[1]}\\]:80`));
  expect(v4).toMatch(new RegExp(`-d 127.0.0.1/32 .*--dport 31241 .*--to-destination ${ips[0]}:80`));
  expect(v6).toMatch(new RegExp(`-d ::1/128 .*--dport 31242 .*--to-destination \\[${ips[1]}\\]:80`));
  expect(v4).not.toContain('--dport 31242');
  expect(v6).not.toContain('--dport 31241');
});
