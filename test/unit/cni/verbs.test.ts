import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { silentLog } from '#base/log.ts';
import { type Attachment, Cni, CniError } from '../../../cni/cni.ts';
import { installFakePlugin } from '../../fakes/cni-plugin.ts';
import { failure, makeFakeNetwork, fakePod as pod, testSettings } from '../../fakes/cni-plugin-network.ts';

const options = () => ({ signal: new AbortController().signal });
const patient = { timeout: 15_000 };

test('STATUS that fails makes the network not ready, and pods wait until it succeeds', async () => {
  await using world = await makeFakeNetwork([{ onStatus: 'fail', error: { code: 50, msg: 'agent is starting' }, times: { STATUS: 2 } }], {
    cniVersion: '1.1.0',
  });
  const stages: string[] = [];
  const planned = await world.cni.plan(pod, { ...options(), onStage: (stage) => stages.push(stage) });
  expect(stages.at(-1)).toBe(
    'waiting for the pod network (CNI STATUS by plugin fake0 (network pod-net): agent is starting (code 50); stderr: fake plugin failed)',
  );
  expect(world.cni.status()).toEqual({ ready: true, reason: '', message: '' });
  expect(planned.networks[0]?.conf.cniVersion).toBe('1.1.0');
  const status = (await world.calls()).filter(({ verb }) => verb === 'STATUS');
  expect(status.length).toBeGreaterThanOrEqual(3);
  expect(Object.keys(status[0]?.env ?? {}).sort()).toEqual(['CNI_COMMAND', 'CNI_PATH', 'PATH']);
  expect(status[0]?.conf).toMatchObject({ name: 'pod-net', cniVersion: '1.1.0', type: 'fake0' });
});

test('a network that was ready counts as ready for the grace period, while new pods wait', async () => {
  await using world = await makeFakeNetwork([{}], { cniVersion: '1.1.0', statusGraceMs: 60_000 });
  await world.cni.plan(pod, options());
  await writeFile(
    join(world.net, '10-pod-net.conflist'),
    JSON.stringify({ cniVersion: '1.1.0', name: 'pod-net', plugins: [{ type: 'fake0', onStatus: 'fail' }] }),
  );
  const controller = new AbortController();
  const stages: string[] = [];
  await vi.waitFor(() => expect(world.cni.info()).toMatchObject({ notReady: expect.stringContaining('fake failure') }), patient);
  const planning = failure(world.cni.plan(pod, { signal: controller.signal, onStage: (stage) => stages.push(stage) }));
  await vi.waitFor(() => expect(stages.at(-1)).toContain('fake failure'), patient);
  expect(world.cni.status().ready).toBe(true);
  await world.cni.configure({ ...testSettings, statusGraceMs: 1 });
  expect(world.cni.status()).toMatchObject({ ready: false, reason: 'NetworkPluginNotReady', message: expect.stringContaining('fake failure') });
  controller.abort();
  await planning;
});

test('a network is spoken to in the newest version that all its plugins speak', async () => {
  await using world = await makeFakeNetwork([{}, {}], { cniVersion: '1.1.0' });
  await rm(join(world.bin, 'fake1'));
  await installFakePlugin(world.bin, 'fake1', '0.4.0 1.0.0');
  await vi.waitFor(
    () => expect(world.cni.status().message).toContain('plugin fake1 speaks CNI 0.4.0, 1.0.0, and the configuration offers only 1.1.0'),
    patient,
  );
  const plugins = [{ type: 'fake0' }, { type: 'fake1' }];
  await writeFile(join(world.net, '10-pod-net.conflist'), JSON.stringify({ cniVersion: '1.1.0', cniVersions: ['0.4.0', '1.0.0'], name: 'pod-net', plugins }));
  expect((await world.cni.plan(pod, options())).networks[0]?.conf.cniVersion).toBe('1.0.0');
});

test('check() asks each plugin with the result, and tells what is missing', async () => {
  await using world = await makeFakeNetwork([{}, {}]);
  const { attachment } = await world.cni.attach(await world.cni.plan(pod, options()), options());
  await world.cni.check(attachment, options());
  const checks = (await world.calls()).filter(({ verb }) => verb === 'CHECK');
  expect(checks.map(({ type, conf }) => [type, conf.prevResult])).toEqual(['fake0', 'fake1'].map((type) => [type, attachment.networks[0]?.result]));
  await world.cni.detach(attachment, options());
  await expect(world.cni.check(attachment, options())).rejects.toThrow('CNI CHECK by plugin fake0 (network pod-net): fake failure');
});

test.each([
  ['0.3.1', {}],
  ['1.0.0', { disableCheck: true }],
])('check() passes over a network in CNI %s with %j', async (cniVersion, more) => {
  await using world = await makeFakeNetwork([{ onCheck: 'fail' }], { cniVersion });
  const { attachment } = await world.cni.attach(await world.cni.plan(pod, options()), options());
  const networks = attachment.networks.map((network) => ({ ...network, conf: { ...network.conf, ...more } }));
  await world.cni.check({ ...attachment, networks }, options());
  expect(await world.calls()).toHaveLength(1);
});

test('collectGarbage() has the plugins take away what belongs to no pod', async () => {
  await using world = await makeFakeNetwork([{}, { onGc: 'fail' }], { cniVersion: '1.1.0' });
  const attach = async (id: string): Promise<Attachment> => (await world.cni.attach(await world.cni.plan({ ...pod, id }, options()), options())).attachment;
  const [one, _lost] = [await attach('one'), await attach('lost')];
  await world.cni.collectGarbage(() => [one], options().signal);
  expect(await world.leases()).toEqual(['lost.pod-net.fake1', 'one.pod-net.fake0', 'one.pod-net.fake1']);
  const gc = (await world.calls()).filter(({ verb }) => verb === 'GC');
  expect(gc.map(({ type, conf }) => [type, conf['cni.dev/valid-attachments']])).toEqual(
    ['fake0', 'fake1'].map((type) => [type, [{ containerID: 'one', ifname: 'eth0' }]]),
  );
});

test.each([['1.0.0', {}]])('collectGarbage() passes over a network in CNI %s', async (cniVersion) => {
  await using world = await makeFakeNetwork([{}], { cniVersion });
  await world.cni.collectGarbage(() => [], options().signal);
  expect(await world.calls()).toEqual([]);
});

test('a pod gets additional networks as eth1 and on, and all are taken down though one fails', async () => {
  await using world = await makeFakeNetwork([{ addresses: ['10.1.0.2/24'] }], { additionalNetworks: ['storage'] });
  await installFakePlugin(world.bin, 'fake9');
  const common = { leases: join(world.net, '../leases'), record: join(world.net, '../calls'), counter: join(world.net, '../counter') };
  const plugins = [{ type: 'fake9', addresses: ['10.2.0.2/24'], onDel: 'fail', times: { DEL: 1 }, capabilities: { portMappings: true }, ...common }];
  await writeFile(join(world.net, '20.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'storage', plugins }));
  const planned = await world.cni.plan(pod, options());
  expect(planned.networks.map(({ ifName, conf }) => `${ifName} ${conf.name}`)).toEqual(['eth0 pod-net', 'eth1 storage']);
  const { attachment, ips } = await world.cni.attach(planned, options());
  expect(ips).toEqual(['10.1.0.2']);
  expect((await world.calls()).map(({ env }) => env.CNI_IFNAME)).toEqual(['eth0', 'eth1']);
  await expect(world.cni.detach(attachment, options())).rejects.toThrow('CNI DEL by plugin fake9 (network storage): fake failure');
  expect(await world.leases()).toEqual(['abc1.storage.fake9']);
  await world.cni.detach(attachment, options());
  expect(await world.leases()).toEqual([]);
});

test('detach() has the result from the cache where the attachment has none, and lost() finds what has no pod', async () => {
  await using world = await makeFakeNetwork([{}]);
  const planned = await world.cni.plan(pod, options());
  const { attachment } = await world.cni.attach(planned, options());
  await writeFile(join(world.cache, 'damaged.json'), '{"pod": {}');
  await writeFile(join(world.cache, '.half.json.1.tmp'), '{');
  await using later = await Cni.open({
    networkDir: world.net,
    pluginDirs: [world.bin],
    cacheDir: world.cache,
    settings: testSettings,
    log: silentLog,
  });
  expect(await later.lost(new Set())).toEqual([attachment]);
  expect(await later.lost(new Set([pod.id]))).toEqual([]);
  await later.detach(planned, options());
  expect((await world.calls()).at(-1)?.conf.prevResult).toEqual(attachment.networks[0]?.result);
  expect(await readdir(world.cache)).toEqual(['damaged.json']);
});

test('attach() keeps to the limit of pods at the same time', async () => {
  await using world = await makeFakeNetwork([{ delayMs: 20 }], { parallel: 2 });
  const running = new Set<string>();
  let most = 0;
  const attach = async (id: string) => {
    const onStage = (stage: string): void => {
      if (!stage.startsWith('CNI ADD')) return;
      running.add(id);
      most = Math.max(most, running.size);
    };
    const onRun = (): void => void running.delete(id);
    await world.cni.attach(await world.cni.plan({ ...pod, id }, options()), { ...options(), onStage, onRun });
  };
  await Promise.all(['a', 'b', 'c', 'd', 'e'].map(attach));
  expect(most).toBe(2);
});

test('configure() lets pods in that wait already, as far as the new limit goes', async () => {
  await using world = await makeFakeNetwork([{ delayMs: 20 }], { parallel: 1 });
  const adding = new Set<string>();
  let most = 0;
  const attach = async (id: string) => {
    const onStage = (stage: string): void => {
      if (!stage.startsWith('CNI ADD')) return;
      if (adding.size === 0) void world.cni.configure({ ...testSettings, parallel: 3 });
      adding.add(id);
      most = Math.max(most, adding.size);
    };
    const onRun = (): void => void adding.delete(id);
    await world.cni.attach(await world.cni.plan({ ...pod, id }, options()), { ...options(), onStage, onRun });
  };
  await Promise.all(['a', 'b', 'c', 'd', 'e'].map(attach));
  expect(most).toBe(3);
});

test('attach() gives one address of each family', async () => {
  await using world = await makeFakeNetwork([{ addresses: ['fd00::2/64', '10.1.0.2/24', '10.1.0.3/24', 'fd00::3/64'] }]);
  const { ips } = await world.cni.attach(await world.cni.plan(pod, options()), options());
  expect(ips).toEqual(['fd00::2', '10.1.0.2']);
});

test('onRun() is told of each plugin, and of its failure', async () => {
  await using world = await makeFakeNetwork([{}, { onAdd: 'fail' }]);
  const ended: unknown[] = [];
  const planned = await world.cni.plan(pod, options());
  expect(await failure(world.cni.attach(planned, { ...options(), onRun: (run) => ended.push(run) }))).toBeInstanceOf(CniError);
  const common = { verb: 'ADD', network: 'pod-net', seconds: expect.any(Number) };
  expect(ended).toEqual([
    { ...common, plugin: 'fake0' },
    { ...common, plugin: 'fake1', error: expect.stringContaining('fake failure (code 999): as asked; stderr: fake plugin failed') },
  ]);
});
