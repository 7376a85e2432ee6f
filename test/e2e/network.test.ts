import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { run } from '#base/exec.ts';
import { MNT, umount } from '#base/sys.ts';
import { Protocol } from '../../proto/cri.ts';
import { parseMountInfo } from '../../server/oci/mount-info.ts';
import { removePod } from '../support/calls.ts';
import { berthCommand, type Daemon, removePods, startDaemon } from '../support/daemon.ts';
import { BUSYBOX } from '../support/images.ts';
import { subnetOf } from '../support/mark.ts';
import { ensureImage, makePod, type Pod, runPod, startPod } from '../support/pod.ts';
import { lasting, remains } from '../support/remains.ts';
import { removeRules } from '../support/sweep.ts';
import { until } from '../support/wait.ts';

/** The daemon's network, as its file has it. */
interface Conflist {
  name: string;
  plugins: Record<string, unknown>[];
}

let daemon: Daemon;
let conflist: string;
beforeAll(async () => {
  daemon = await startDaemon({
    handler: 'crun',
    registry: inject('registry'),
    config: { network: { cni_add_timeout: '5s', cni_del_timeout: '5s', cni_del_give_up: '24h' }, metrics: { enable_metrics: true, metrics_port: 0 } },
  });
  conflist = readFileSync(file(), 'utf8');
  await ensureImage(daemon, BUSYBOX);
});
afterEach(async () => {
  daemon.faults.clear();
  if (readFileSync(file(), 'utf8') !== conflist) await changeNetwork(() => {});
  await removePods(daemon);
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
});

const file = (): string => join(daemon.networkDir, '10-test.conflist');

/** Replaces the configuration as a network's agent does, and waits until the daemon has seen it. */
async function changeNetwork(change: (conf: Conflist) => void): Promise<void> {
  const conf = JSON.parse(conflist) as Conflist;
  change(conf);
  writeFileSync(`${file()}.new`, conf.name === daemon.network && JSON.stringify(conf) === conflist ? conflist : JSON.stringify(conf));
  renameSync(`${file()}.new`, file());
  const wanted = { name: conf.name, plugins: conf.plugins.map(({ type }) => type) };
  await until('the new network', async () => {
    const { networks } = JSON.parse((await daemon.cri.Status({ verbose: true })).info.cni ?? '{}') as { networks: { name: string; plugins: string[] }[] };
    return networks.length === 1 && networks[0]?.name === wanted.name && JSON.stringify(networks[0].plugins) === JSON.stringify(wanted.plugins);
  });
}

async function stop(podId: string): Promise<void> {
  await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
}

async function remove(podId: string): Promise<void> {
  await removePod(daemon, podId);
  expect(await lasting(daemon)).toEqual([]);
}

interface PodInfo {
  readonly network: {
    readonly networks: { readonly name: string; readonly ifName: string; readonly result: { readonly ips: unknown[] } }[];
    failing?: unknown;
  };
  readonly timeline: { readonly step: string; readonly ms: number; readonly error?: string }[];
}

async function inspect(pod_sandbox_id: string): Promise<PodInfo> {
  return JSON.parse((await daemon.cri.PodSandboxStatus({ pod_sandbox_id, verbose: true })).info.info ?? '{}') as PodInfo;
}

const pendingDetaches = async () =>
  (JSON.parse((await daemon.cri.Status({ verbose: true })).info.pending ?? '{}') as { detach: { id: string; failure?: { attempts: number; error: string } }[] })
    .detach;

/** Takes away the record's readability, as a power cut may. */
function damageRecord(podId: string): void {
  writeFileSync(join(daemon.root, 'sandboxes', podId, 'record.json'), '{"format":1,"rec');
}

const netns = (podId: string): string => join(daemon.directory, 'ns/netns', `berth-${podId}`);

describe('a pod on the network', () => {
  test('shows what each plugin answered and how long it took; the slow one is named', async () => {
    daemon.faults.set('portmap', 'ADD', 'slow');
    const podId = await runPod(daemon, makePod(daemon));
    const { network, timeline } = await inspect(podId);
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
    expect((await inspect(podId)).timeline.map(({ step }) => step)).toEqual(expect.arrayContaining(timeline.map(({ step }) => step)));
    await remove(podId);
  });

  test('has its namespace where a mount is shared with others, and nothing is left of that mount at the end', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    const mounts = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
    expect(mounts.find(({ path }) => path === netns(podId))).toMatchObject({ shared: true });
    await remove(podId);
    await daemon.kill('SIGTERM');
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(`${daemon.directory}/ns`);
    await daemon.start();
  });

  test('gets the resolver of its network where it asks for none, and the one it asks for otherwise', async () => {
    await changeNetwork((conf) => {
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
      const { networks } = (await inspect(podId)).network;
      expect(networks.map(({ name, ifName }) => `${ifName} ${name}`)).toEqual([`eth0 ${daemon.network}`, 'eth1 second']);
      const { stdout } = await run('nsenter', [`--net=${netns(podId)}`, 'ip', '-o', '-4', 'addr'], { signal: AbortSignal.timeout(20_000) });
      expect(stdout).toContain(`eth1    inet ${subnetOf(`${daemon.network}-second`)}.`);
      const { status: shown } = await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId });
      expect([shown?.network?.ip.startsWith(`${daemon.subnet}.`), shown?.network?.additional_ips]).toEqual([true, []]);
      await remove(podId);
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
    await changeNetwork(change);
    await Promise.all(tenAtOnce);
    const names = await Promise.all(ids.map(async (id) => (await inspect(id)).network.networks[0]?.name));
    expect(new Set(names)).toEqual(new Set([daemon.network, other]));
    await changeNetwork((conf) => conf.plugins.pop());
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
    await changeNetwork((conf) => conf.plugins.pop());
    const { podId } = await startPod(
      daemon,
      { hostPorts: [{ container: 8080, host: 31_080 }] },
      { command: ['sh', '-c', 'mkdir /w; echo served >/w/index.html; httpd -f -p 8080 -h /w'] },
    );
    expect((await inspect(podId)).timeline.map(({ step }) => step)).toContain(`CNI ADD by plugin portmap (network ${daemon.network})`);
    const answer = await until('an answer', () => fetchPort(`${daemon.subnet}.1`, 31_080).catch(() => undefined));
    expect(answer).toContain('served');
    // The pod reaches itself by the host port too.
    const inside = `exec 3<>/dev/tcp/${daemon.subnet}.1/31080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3`;
    const { stdout } = await run('nsenter', [`--net=${netns(podId)}`, 'timeout', '10', 'bash', '-c', inside], { signal: AbortSignal.timeout(20_000) });
    expect(stdout).toContain('served');
    await remove(podId);
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

describe('a pod is taken off the network', () => {
  test('after nine DELs that fail; meanwhile all is kept, counted and told', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    daemon.faults.set('host-local', 'DEL', 'fail');
    for (let attempt = 1; attempt <= 9; attempt += 1) await expect(stop(podId)).rejects.toThrow('injected failure');
    expect(existsSync(netns(podId))).toBe(true);
    const [pending] = await pendingDetaches();
    expect(pending).toMatchObject({ id: podId, failure: { error: expect.stringMatching(/CNI DEL by plugin bridge .*injected failure/) } });
    expect(pending?.failure?.attempts).toBeGreaterThanOrEqual(9);
    const { network, timeline } = await inspect(podId);
    expect(network.failing).toMatchObject({ error: expect.stringContaining('injected failure') });
    expect(timeline.at(-1)).toMatchObject({ step: `CNI DEL by plugin bridge (network ${daemon.network})`, error: expect.stringContaining('injected failure') });
    await daemon.restart();
    expect((await pendingDetaches())[0]?.failure?.attempts).toBeGreaterThanOrEqual(9);
    daemon.faults.clear();
    await remove(podId);
    expect(await pendingDetaches()).toEqual([]);
  });

  test('by the sweeper alone, when nobody asks again', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    daemon.faults.set('bridge', 'DEL', 'fail');
    await expect(stop(podId)).rejects.toThrow('injected failure');
    daemon.faults.clear();
    await until('the sweeper', async () => (await pendingDetaches()).length === 0);
    await remove(podId);
  });

  test('when its namespace is gone, its cache is gone, and the configuration is another one', async () => {
    const podId = await runPod(daemon, makePod(daemon, { hostPorts: [{ container: 80, host: 31_084 }] }));
    umount(netns(podId), MNT.DETACH);
    rmSync(netns(podId));
    rmSync(join(daemon.root, 'cni', `${podId}.json`));
    await changeNetwork((conf) => {
      conf.name = `${daemon.network}y`.slice(0, 15);
      conf.plugins.pop();
    });
    await remove(podId);
  });

  test('once, by two that ask at the same time', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    daemon.faults.forget();
    daemon.faults.set('bridge', 'DEL', 'slow');
    await Promise.all([stop(podId), stop(podId), daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId })]);
    expect(daemon.faults.calls('bridge', 'DEL')).toBe(1);
    expect(await lasting(daemon)).toEqual([]);
  });

  test('when its record is damaged, by the cache, and its namespace is kept until DEL succeeds', async () => {
    const pod = makePod(daemon, { hostPorts: [{ container: 80, host: 31_085 }] });
    const podId = await runPod(daemon, pod);
    await daemon.kill('SIGKILL');
    damageRecord(podId);
    daemon.faults.set('portmap', 'DEL', 'fail');
    await daemon.start();
    await until('a DEL', async () => (await pendingDetaches())[0]?.failure);
    expect(await pendingDetaches()).toMatchObject([
      { id: podId, pod: `default/${pod.config.metadata.name}`, failure: { error: expect.stringContaining('portmap') } },
    ]);
    expect(existsSync(netns(podId))).toBe(true);
    await expect(runPod(daemon, makePod(daemon, { hostPorts: [{ container: 80, host: 31_085 }] }))).rejects.toThrow('host port 31085/tcp is taken by');
    daemon.faults.clear();
    await until('the DEL', async () => (await pendingDetaches()).length === 0);
    expect(await lasting(daemon)).toEqual([]);
  });

  test.each(['bridge', 'portmap'])('when the daemon was killed during DEL by %s', async (plugin) => {
    const podId = await runPod(daemon, makePod(daemon));
    daemon.faults.forget();
    daemon.faults.set(plugin, 'DEL', 'hang');
    const stopping = stop(podId).catch(() => {});
    await until('the DEL', () => daemon.faults.calls(plugin, 'DEL') > 0);
    await daemon.kill('SIGKILL');
    await stopping;
    daemon.faults.clear();
    await daemon.start();
    await remove(podId);
  });

  test('with the result of its ADD, when the daemon was killed between that and the record', async () => {
    const pod = makePod(daemon);
    daemon.faults.set('crun', 'create', 'hang');
    daemon.faults.forget();
    const creating = runPod(daemon, pod).catch(() => undefined);
    await until('the results of ADD', () =>
      readdirSync(join(daemon.root, 'cni')).some((name) => readFileSync(join(daemon.root, 'cni', name), 'utf8').includes('"result"')),
    );
    await daemon.kill('SIGKILL');
    await creating;
    daemon.faults.clear();
    await daemon.start();
    expect(await lasting(daemon)).toEqual([]);
    expect(readdirSync(join(daemon.root, 'cni'))).toEqual([]);
  });

  test('by giving up, when the configuration says so, with a warning and its name', async () => {
    await daemon.kill('SIGTERM');
    writeFileSync(daemon.configFile, readFileSync(daemon.configFile, 'utf8').replace('cni_del_give_up = 24h', 'cni_del_give_up = 1s'));
    await daemon.start();
    const podId = await runPod(daemon, makePod(daemon));
    const lease = (await remains(daemon)).find((line) => line.startsWith('address '));
    daemon.faults.set('bridge', 'DEL', 'fail');
    await expect(stop(podId)).rejects.toThrow('injected failure');
    await until('the end of the patience', async () => (await pendingDetaches()).length === 0);
    expect(daemon.log()).toMatch(new RegExp(`"sandboxId":"${podId}".*Gave up taking pod off its network: an address`));
    await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
    expect(existsSync(netns(podId))).toBe(false);
    expect(await remains(daemon)).toEqual([lease]); // as the warning said
    rmSync(join(daemon.directory, 'ipam', daemon.network, lease?.split(' ')[1] ?? ''));
    await removeRules(daemon.network);
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
