import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { run } from '#base/exec.ts';
import { Protocol } from '../../proto/cri.ts';
import { parseMountInfo } from '../../server/oci/mount-info.ts';
import { berthCommand, type Daemon } from '../support/daemon.ts';
import { subnetOf } from '../support/mark.ts';
import { type Conflist, inspect, NetworkFile, netnsOf, restore, startNetworkDaemon } from '../support/network.ts';
import { makePod, type Pod, runPod, startPod } from '../support/pod.ts';
import { removeLast } from '../support/remains.ts';
import { until } from '../support/wait.ts';

let daemon: Daemon;
let network: NetworkFile;
beforeAll(async () => {
  daemon = await startNetworkDaemon(inject('registry'));
  network = new NetworkFile(daemon);
});
afterEach(() => restore(daemon, network));
afterAll(() => daemon[Symbol.asyncDispose]());

async function stop(podId: string): Promise<void> {
  await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
}

describe('a pod on the network', () => {
  test('shows what each plugin answered and how long it took; the slow one is named', async () => {
    daemon.faults.set('portmap', 'ADD', 'slow');
    const podId = await runPod(daemon, makePod(daemon));
    const { network, timeline } = await inspect(daemon, podId);
    const ip = (await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).status?.network?.ip;
    expect(network.networks).toMatchObject([{ name: daemon.network, ifName: 'eth0', result: { ips: [{ address: `${ip}/24` }] } }]);
    const plugins = timeline.filter(({ step }) => step.startsWith('CNI ADD'));
    expect(plugins.map(({ step }) => step)).toEqual([
      `CNI ADD by plugin bridge (network ${daemon.network})`,
      `CNI ADD by plugin portmap (network ${daemon.network})`,
    ]);
    expect(plugins[1]?.ms).toBeGreaterThanOrEqual(500);
    expect(timeline.map(({ step }) => step)).toEqual(expect.arrayContaining(['namespaces', 'cni add', 'pause create', 'pause start', 'RunPodSandbox']));
    const [file, ...args] = berthCommand();
    const berth = async (...words: string[]): Promise<string> =>
      (await run(file, [...args, ...words, '--config', daemon.configFile], { signal: AbortSignal.timeout(30_000), env: { PATH: process.env.PATH ?? '' } }))
        .stdout;
    expect(await berth('pod', 'ls', '--slow')).toMatch(
      new RegExp(`^ID .*\\n${podId.slice(0, 13)} +default/\\S+ +\\S+Z +\\d+ms +\\d+ms CNI ADD by plugin portmap`),
    );
    expect(await berth('pod', 'timeline', podId.slice(0, 13))).toMatch(/\n\+\d+ms +\d+ms +CNI ADD by plugin portmap \(network \S+\)\n/);
    expect(JSON.parse(await berth('pod', 'timeline', podId, '--json'))).toMatchObject({ timelines: [{ id: podId, entries: timeline }] });
    await expect(berth('pod', 'timeline', 'nobody')).rejects.toThrow('pod "nobody": no such pod was seen lately');
    await daemon.restart();
    expect((await inspect(daemon, podId)).timeline.map(({ step }) => step)).toEqual(expect.arrayContaining(timeline.map(({ step }) => step)));
    await removeLast(daemon, podId);
  });

  test('has its namespace where a mount is shared with others, and nothing is left of that mount at the end', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    const mounts = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
    expect(mounts.find(({ path }) => path === netnsOf(daemon, podId))).toMatchObject({ shared: true });
    await removeLast(daemon, podId);
    await daemon.kill('SIGTERM');
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(`${daemon.directory}/ns`);
    await daemon.start();
  });

  test('gets the resolver of its network where it asks for none, and the one it asks for otherwise', async () => {
    await network.change((conf) => {
      conf.name = `${daemon.network}z`.slice(0, 15);
      Object.assign(conf.plugins[0] ?? {}, { dns: { nameservers: ['192.0.2.77'], search: ['pods.example'], options: ['ndots:2'] } });
    });
    const silent = makePod(daemon);
    const { dns_config: _, ...config } = silent.config;
    const [without, asking] = [await runPod(daemon, { ...silent, config }), await runPod(daemon, makePod(daemon))];
    const resolvConf = (podId: string): string => readFileSync(join(daemon.runroot, 'bundles', podId, 'resolv.conf'), 'utf8');
    expect(resolvConf(without)).toBe('search pods.example\nnameserver 192.0.2.77\noptions ndots:2\n');
    expect(resolvConf(asking)).toContain('nameserver 10.96.0.10\n');
  });

  test('gets another network beside it as soon as the configuration is reloaded, and leaves both', async () => {
    const before = readFileSync(daemon.configFile, 'utf8');
    const second = join(daemon.networkDir, '20-second.conflist');
    const ipam = { type: 'host-local', dataDir: join(daemon.directory, 'ipam'), ranges: [[{ subnet: `${subnetOf(`${daemon.network}-second`)}.0/24` }]] };
    writeFileSync(second, JSON.stringify({ cniVersion: '1.0.0', name: 'second', plugins: [{ type: 'bridge', bridge: daemon.network, ipam }] }));
    writeFileSync(daemon.configFile, before.replace('[network]\n', '[network]\ncni_additional_networks = second\n'));
    const reload = async (networks: string): Promise<void> => {
      process.kill(daemon.pid(), 'SIGHUP');
      await until('the reload', async () => (await daemon.cri.Status({ verbose: true })).info.cni?.includes(`"additionalNetworks":${networks}`));
    };
    await reload('["second"]');
    try {
      const podId = await runPod(daemon, makePod(daemon));
      const { networks } = (await inspect(daemon, podId)).network;
      expect(networks.map(({ name, ifName }) => `${ifName} ${name}`)).toEqual([`eth0 ${daemon.network}`, 'eth1 second']);
      const { stdout } = await run('nsenter', [`--net=${netnsOf(daemon, podId)}`, 'ip', '-o', '-4', 'addr'], { signal: AbortSignal.timeout(20_000) });
      expect(stdout).toContain(`eth1    inet ${subnetOf(`${daemon.network}-second`)}.`);
      const { status: shown } = await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId });
      expect([shown?.network?.ip.startsWith(`${daemon.subnet}.`), shown?.network?.additional_ips]).toEqual([true, []]);
      await removeLast(daemon, podId);
      expect(readdirSync(join(daemon.directory, 'ipam/second')).filter((name) => /^\d/.test(name))).toEqual([]);
    } finally {
      writeFileSync(daemon.configFile, before);
      rmSync(second);
      await reload('[]');
    }
  });

  test('that came up while the configuration was replaced is on the old or the new network, and goes from the one it is on', async () => {
    const other = `${daemon.network}x`.slice(0, 15);
    const change = (conf: Conflist): void => {
      conf.name = other;
    };
    const ids: string[] = [];
    let left = 50;
    const tenAtOnce = Array.from({ length: 10 }, async () => {
      for (; left > 0; ) {
        left -= 1;
        ids.push(await runPod(daemon, makePod(daemon)));
      }
    });
    await until('the first of them', () => ids.length > 5);
    await network.change(change);
    await Promise.all(tenAtOnce);
    const names = await Promise.all(ids.map(async (id) => (await inspect(daemon, id)).network.networks[0]?.name));
    expect(new Set(names)).toEqual(new Set([daemon.network, other]));
    await network.change((conf) => conf.plugins.pop());
    await Promise.all(ids.map(stop));
    const leases = (network: string): string[] => readdirSync(join(daemon.directory, 'ipam', network)).filter((name) => /^\d/.test(name));
    expect([...leases(daemon.network), ...leases(other)]).toEqual([]);
  });
});

describe('host ports', () => {
  const withPorts = (...ports: { port: number; protocol?: Protocol; ip?: string }[]): Pod => {
    const pod = makePod(daemon);
    const port_mappings = ports.map(({ port, protocol = Protocol.TCP, ip = '' }) => ({ protocol, container_port: 8080, host_port: port, host_ip: ip }));
    return { ...pod, config: { ...pod.config, port_mappings } };
  };

  test('work on a chain without portmap, which berth puts there', async () => {
    await network.change((conf) => conf.plugins.pop());
    const { podId } = await startPod(
      daemon,
      { hostPorts: [{ container: 8080, host: 31_080 }] },
      { command: ['sh', '-c', 'mkdir /w; echo served >/w/index.html; httpd -f -p 8080 -h /w'] },
    );
    expect((await inspect(daemon, podId)).timeline.map(({ step }) => step)).toContain(`CNI ADD by plugin portmap (network ${daemon.network})`);
    const answer = await until('an answer', () => fetchPort(`${daemon.subnet}.1`, 31_080).catch(() => undefined));
    expect(answer).toContain('served');
    // The pod reaches itself by the host port too.
    const inside = `exec 3<>/dev/tcp/${daemon.subnet}.1/31080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3`;
    const { stdout } = await run('nsenter', [`--net=${netnsOf(daemon, podId)}`, 'timeout', '10', 'bash', '-c', inside], {
      signal: AbortSignal.timeout(20_000),
    });
    expect(stdout).toContain('served');
    await removeLast(daemon, podId);
    await expect(fetchPort(`${daemon.subnet}.1`, 31_080)).rejects.toThrow();
  });

  test('that are taken are refused with the name of the pod that has them, until it is gone', async () => {
    const first = withPorts({ port: 31_081, ip: '127.0.0.1' }, { port: 31_082, protocol: Protocol.UDP });
    const podId = await runPod(daemon, first);
    const name = `default/${first.config.metadata.name} (${podId})`;
    const second = withPorts({ port: 31_083 }, { port: 31_081 });
    await expect(runPod(daemon, second)).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
      details: expect.stringContaining(`host port 31081/tcp is taken by pod ${name}`),
    });
    const free = await runPod(daemon, withPorts({ port: 31_081, ip: '127.0.0.2' }, { port: 31_082 }, { port: 31_083 }));
    await daemon.restart();
    await expect(runPod(daemon, second)).rejects.toThrow(`host port 31083/tcp is taken by pod`);
    await stop(free);
    daemon.faults.set('bridge', 'DEL', 'fail');
    await expect(stop(podId)).rejects.toThrow('injected failure');
    await expect(runPod(daemon, second)).rejects.toThrow(/taken by pod .*, which cannot be taken off the network: CNI DEL by plugin bridge .*injected failure/);
    daemon.faults.clear();
    await stop(podId);
    await runPod(daemon, second);
  });
});

/** GET / by HTTP/1.0 of an address and port of this machine. */
function fetchPort(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host, port, timeout: 2_000 });
    let text = '';
    socket.on('connect', () => socket.write('GET / HTTP/1.0\r\n\r\n'));
    socket.on('data', (chunk) => {
      text += chunk.toString();
    });
    socket.on('end', () => resolve(text));
    socket.on('error', reject);
    socket.on('timeout', () => socket.destroy(new Error('no answer')));
  });
}
