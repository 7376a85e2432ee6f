import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { MNT, umount } from '#base/sys.ts';
import type { Daemon } from '../support/daemon.ts';
import { inspect, NetworkFile, netnsOf, restore, startNetworkDaemon } from '../support/network.ts';
import { makePod, runPod } from '../support/pod.ts';
import { lasting, remains, removeLast } from '../support/remains.ts';
import { removeRules } from '../support/sweep.ts';
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

const pendingDetaches = async () =>
  (JSON.parse((await daemon.cri.Status({ verbose: true })).info.pending ?? '{}') as { detach: { id: string; failure?: { attempts: number; error: string } }[] })
    .detach;

/** Takes away the record's readability, as a power cut may. */
function damageRecord(podId: string): void {
  writeFileSync(join(daemon.root, 'sandboxes', podId, 'record.json'), '{"format":1,"rec');
}

describe('a pod is taken off the network', () => {
  test('after nine DELs that fail; meanwhile all is kept, counted and told', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    daemon.faults.set('host-local', 'DEL', 'fail');
    for (let attempt = 1; attempt <= 9; attempt += 1) await expect(stop(podId)).rejects.toThrow('injected failure');
    expect(existsSync(netnsOf(daemon, podId))).toBe(true);
    const [pending] = await pendingDetaches();
    expect(pending).toMatchObject({ id: podId, failure: { error: expect.stringMatching(/CNI DEL by plugin bridge .*injected failure/) } });
    expect(pending?.failure?.attempts).toBeGreaterThanOrEqual(9);
    const { network, timeline } = await inspect(daemon, podId);
    expect(network.failing).toMatchObject({ error: expect.stringContaining('injected failure') });
    expect(timeline.at(-1)).toMatchObject({ step: `CNI DEL by plugin bridge (network ${daemon.network})`, error: expect.stringContaining('injected failure') });
    await daemon.restart();
    expect((await pendingDetaches())[0]?.failure?.attempts).toBeGreaterThanOrEqual(9);
    daemon.faults.clear();
    await removeLast(daemon, podId);
    expect(await pendingDetaches()).toEqual([]);
  });

  test('by the sweeper alone, when nobody asks again', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    daemon.faults.set('bridge', 'DEL', 'fail');
    await expect(stop(podId)).rejects.toThrow('injected failure');
    daemon.faults.clear();
    await until('the sweeper', async () => (await pendingDetaches()).length === 0);
    await removeLast(daemon, podId);
  });

  test('when its namespace is gone, its cache is gone, and the configuration is another one', async () => {
    const podId = await runPod(daemon, makePod(daemon, { hostPorts: [{ container: 80, host: 31_084 }] }));
    umount(netnsOf(daemon, podId), MNT.DETACH);
    rmSync(netnsOf(daemon, podId));
    rmSync(join(daemon.root, 'cni', `${podId}.json`));
    await network.change((conf) => {
      conf.name = `${daemon.network}y`.slice(0, 15);
      conf.plugins.pop();
    });
    await removeLast(daemon, podId);
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
    expect(existsSync(netnsOf(daemon, podId))).toBe(true);
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
    await removeLast(daemon, podId);
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
    expect(existsSync(netnsOf(daemon, podId))).toBe(false);
    expect(await remains(daemon)).toEqual([lease]); // as the warning said
    rmSync(join(daemon.directory, 'ipam', daemon.network, lease?.split(' ')[1] ?? ''));
    await removeRules(daemon.network);
  });
});
