import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run } from '#base/exec.ts';
import { MNT, umount } from '#base/sys.ts';
import { berthCommand, type Daemon, startDaemon } from '../support/daemon.ts';
import { BUSYBOX, writeArchive } from '../support/images.ts';
import { makePod, runPod, startContainer } from '../support/pod.ts';
import { lasting } from '../support/remains.ts';
import { until } from '../support/wait.ts';

/** One machine of two: a network namespace with a daemon in it, and its range of pod addresses. */
interface Node {
  readonly netns: string;
  readonly daemon: Daemon;
}

const signal = () => AbortSignal.timeout(60_000);
const sh = async (file: string, ...args: string[]): Promise<string> =>
  (await run(file, args, { signal: signal(), env: { PATH: process.env.PATH ?? '' } })).stdout;
const inside = (netns: string, ...command: string[]): Promise<string> => sh('nsenter', `--net=${netns}`, ...command);

/** Addresses of the nodes on the cable between them, and the ranges of their pods. Nobody else is in these namespaces. */
const plan = [
  { address: '192.0.2.1', address6: '2001:db8::1', pods: '10.87.1.0/24', pods6: 'fd00:87:1::/64' },
  { address: '192.0.2.2', address6: '2001:db8::2', pods: '10.87.2.0/24', pods6: 'fd00:87:2::/64' },
] as const;

const nodes: Node[] = [];
const directory = join(tmpdir(), 'two-nodes');
const namespaces = plan.map((_, index) => join(directory, `node${index}`));

beforeAll(async () => {
  mkdirSync(directory, { recursive: true });
  for (const netns of namespaces) {
    writeFileSync(netns, '');
    await sh('unshare', `--net=${netns}`, 'true');
    await inside(netns, 'ip', 'link', 'set', 'lo', 'up');
  }
  const [one = '', two = ''] = namespaces;
  // Made inside, so that no name of it is ever seen outside.
  await inside(one, 'ip', 'link', 'add', 'cable', 'type', 'veth', 'peer', 'name', 'cable', 'netns', two);
  for (const [index, netns] of namespaces.entries()) {
    const own = plan[index] as (typeof plan)[number];
    const other = plan[1 - index] as (typeof plan)[number];
    await inside(netns, 'ip', 'addr', 'add', `${own.address}/24`, 'dev', 'cable');
    await inside(netns, 'ip', '-6', 'addr', 'add', `${own.address6}/64`, 'dev', 'cable', 'nodad');
    await inside(netns, 'ip', 'link', 'set', 'cable', 'up');
    // contrib/cni/bridge/README.md: each node knows the way to the other's pods.
    await inside(netns, 'ip', 'route', 'add', other.pods, 'via', other.address);
    await inside(netns, 'ip', '-6', 'route', 'add', other.pods6, 'via', other.address6);
    const daemon = await startDaemon({ handler: 'crun', netns });
    nodes.push({ netns, daemon });
    await useRoutedBridge(daemon, own);
    await loadImage(daemon);
  }
});

afterAll(async () => {
  for (const { daemon } of nodes) await daemon[Symbol.asyncDispose]();
  for (const netns of namespaces) {
    umount(netns, MNT.DETACH);
    rmSync(netns);
  }
  rmSync(directory, { recursive: true });
});

/** The network of contrib/cni/bridge-dual-stack with a range of the node's own, and without masquerading. */
async function useRoutedBridge(daemon: Daemon, { pods, pods6 }: (typeof plan)[number]): Promise<void> {
  const ipam = {
    type: 'host-local',
    dataDir: join(daemon.directory, 'ipam'),
    ranges: [[{ subnet: pods }], [{ subnet: pods6 }]],
    routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
  };
  const bridge = { type: 'bridge', bridge: 'berth0', isGateway: true, ipMasq: false, hairpinMode: true, ipam };
  const file = join(daemon.networkDir, '10-test.conflist');
  const conf = { cniVersion: '1.0.0', name: daemon.network, plugins: [bridge, { type: 'portmap', capabilities: { portMappings: true } }] };
  writeFileSync(`${file}.new`, JSON.stringify(conf));
  renameSync(`${file}.new`, file);
}

/** No registry is in reach of a node. */
async function loadImage(daemon: Daemon): Promise<void> {
  const archive = join(daemon.directory, 'busybox.tar');
  await writeArchive(archive, BUSYBOX, 'docker-archive');
  const [file, ...args] = berthCommand();
  await sh(file, ...args, 'image', 'load', archive, '--name', BUSYBOX, '--config', daemon.configFile);
}

async function servingPod({ daemon }: Node, text: string, hostPort: number) {
  const pod = makePod(daemon, { hostPorts: [{ container: 8080, host: hostPort }] });
  const podId = await runPod(daemon, pod);
  const { containerId } = await startContainer(daemon, pod, podId, {
    command: ['sh', '-c', `mkdir /w; echo ${text} >/w/index.html; exec httpd -f -p 8080 -h /w`],
  });
  const network = (await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).status?.network;
  return { podId, containerId, daemon, ips: [network?.ip ?? '', ...(network?.additional_ips ?? []).map(({ ip }) => ip)] };
}

type ServingPod = Awaited<ReturnType<typeof servingPod>>;

/** What a pod gets from an address and port, and from which address the other side sees it. */
async function get(from: ServingPod, address: string, port: number): Promise<string> {
  const netns = join(from.daemon.directory, 'ns/netns', `berth-${from.podId}`);
  const script = `exec 3<>/dev/tcp/${address}/${port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3`;
  return await until('an answer', () => inside(netns, 'timeout', '10', 'bash', '-c', script).catch(() => undefined));
}

test('pods on two nodes with routed bridges reach each other by both families and by host ports, and leave nothing', async () => {
  const [one, two] = nodes as [Node, Node];
  const [first, second] = await Promise.all([servingPod(one, 'first', 31_001), servingPod(two, 'second', 31_002)]);
  expect([first, second].map(({ ips }) => ips)).toEqual([
    [expect.stringMatching(/^10\.87\.1\./), expect.stringMatching(/^fd00:87:1::/)],
    [expect.stringMatching(/^10\.87\.2\./), expect.stringMatching(/^fd00:87:2::/)],
  ]);
  for (const ip of second.ips) expect(await get(first, ip, 8080)).toContain('second');
  for (const ip of first.ips) expect(await get(second, ip, 8080)).toContain('first');
  expect(await get(first, plan[1].address, 31_002)).toContain('second');
  expect(await get(second, plan[0].address6, 31_001)).toContain('first');
  // Routed, not masqueraded: a pod is seen with its own address.
  const { stdout } = await one.daemon.cri.ExecSync({ container_id: first.containerId, cmd: ['cat', '/proc/net/tcp', '/proc/net/tcp6'], timeout: '20' });
  const hex = (second.ips[0] ?? '')
    .split('.')
    .toReversed()
    .map((part) => Number(part).toString(16).padStart(2, '0'))
    .join('')
    .toUpperCase();
  expect(Buffer.from(stdout).toString()).toContain(hex);
  for (const { daemon, podId } of [first, second]) {
    await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
    await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
  }
  for (const { daemon } of nodes) expect(await lasting(daemon)).toEqual([]);
  for (const { netns } of nodes) expect(await inside(netns, 'ip', '-o', 'link', 'show', 'master', 'berth0')).toBe('');
});
