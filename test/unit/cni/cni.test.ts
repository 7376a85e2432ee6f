import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { CriError } from '#base/errors.ts';
import { silentLog } from '#base/log.ts';
import { Cni, CniError } from '../../../cni/cni.ts';
import { failure, makeFakeNetwork, fakePod as pod, testSettings } from '../../fakes/cni-plugin-network.ts';

const options = () => ({ signal: new AbortController().signal });

test('attach() runs the chain in order, each plugin with the result before it', async () => {
  await using world = await makeFakeNetwork([
    { addresses: ['10.1.0.2/24', 'fd00::2/64'], mtu: 1400, capabilities: { portMappings: true, ipRanges: true } },
    { capabilities: { portMappings: false, dns: true } },
  ]);
  world.cni.setPodCidr('10.1.0.0/24');
  const planned = await world.cni.plan(
    {
      ...pod,
      portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '' }],
      dns: { servers: ['10.0.0.10'], searches: [], options: [] },
    },
    options(),
  );
  expect(planned).toEqual(JSON.parse(JSON.stringify(planned)));
  const stages: string[] = [];
  const { attachment, ips } = await world.cni.attach(planned, { ...options(), onStage: (stage) => stages.push(stage) });
  const result = {
    cniVersion: '1.0.0',
    interfaces: [{ name: 'eth0', sandbox: pod.netns }],
    ips: [
      { address: '10.1.0.2/24', interface: 0 },
      { address: 'fd00::2/64', interface: 0 },
    ],
    dns: {},
  };
  expect(ips).toEqual(['10.1.0.2', 'fd00::2']);
  expect(attachment).toEqual({ ...planned, networks: [{ ...planned.networks[0], result }] });
  expect(stages).toEqual(['waiting for the CNI plugins of other pods', 'CNI ADD by plugin fake0', 'CNI ADD by plugin fake1']);
  expect(world.observed).toEqual(['ADD fake0 true true', 'ADD fake1 true true']);
  const [first, second] = await world.calls();
  expect(first?.env).toEqual({
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: 'abc1',
    CNI_NETNS: pod.netns,
    CNI_IFNAME: 'eth0',
    CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc1;K8S_POD_UID=u-1',
    CNI_PATH: world.bin,
    PATH: expect.any(String),
  });
  expect(first?.conf).toMatchObject({
    name: 'pod-net',
    cniVersion: '1.0.0',
    mtu: 1400,
    runtimeConfig: { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }], ipRanges: [[{ subnet: '10.1.0.0/24' }]] },
  });
  expect(first?.conf).not.toHaveProperty('capabilities');
  expect(first?.conf).not.toHaveProperty('prevResult');
  expect(second?.conf).toMatchObject({ prevResult: result, runtimeConfig: { dns: { servers: ['10.0.0.10'], searches: [], options: [] } } });
});

test('detach() runs the chain backwards with the final result, as often as asked, after a change of everything', async () => {
  await using world = await makeFakeNetwork([{}, {}]);
  const { attachment } = await world.cni.attach(await world.cni.plan(pod, options()), options());
  expect(await world.leases()).toHaveLength(2);
  await writeFile(join(world.net, '10-pod-net.conflist'), JSON.stringify({ name: 'other', type: 'gone' }));
  await using later = await Cni.open({
    networkDir: world.net,
    pluginDirs: ['/nowhere', world.bin],
    cacheDir: join(world.net, 'other-cache'),
    settings: { ...testSettings, addTimeoutMs: 1 },
    log: silentLog,
  });
  const kept = JSON.parse(JSON.stringify(attachment));
  await later.detach(kept, options());
  await later.detach({ ...kept, pod: { ...pod, netns: '/run/netns/never-was' } }, options());
  expect(await world.leases()).toEqual([]);
  const calls = (await world.calls()).slice(2);
  expect(calls.map(({ verb, type, env }) => `${verb} ${type} ${env.CNI_NETNS}`)).toEqual([
    `DEL fake1 ${pod.netns}`,
    `DEL fake0 ${pod.netns}`,
    'DEL fake1 ',
    'DEL fake0 ',
  ]);
  expect(calls.map(({ conf }) => conf.prevResult)).toEqual(Array(4).fill(attachment.networks[0]?.result));
});

test('detach() counts a file that is no namespace any more as gone', async () => {
  await using world = await makeFakeNetwork([{}]);
  const stale = join(world.net, 'stale-netns');
  await writeFile(stale, '');
  await world.cni.detach({ ...(await world.cni.plan(pod, options())), pod: { ...pod, netns: stale } }, options());
  expect((await world.calls())[0]?.env.CNI_NETNS).toBe('');
});

test.each([
  ['0.2.0', false],
  ['0.3.1', false],
  ['0.4.0', true],
  ['1.1.0', true],
])('attach() and detach() work in CNI %s', async (cniVersion, prevResultOnDel) => {
  await using world = await makeFakeNetwork([{ addresses: ['10.1.0.2/24', 'fd00::2/64'] }], { cniVersion });
  const { attachment, ips } = await world.cni.attach(await world.cni.plan(pod, options()), options());
  expect(ips).toEqual(['10.1.0.2', 'fd00::2']);
  await world.cni.detach(attachment, options());
  const del = (await world.calls()).find(({ verb }) => verb === 'DEL');
  expect(del?.conf.cniVersion).toBe(cniVersion);
  expect('prevResult' in (del?.conf ?? {})).toBe(prevResultOnDel);
});

const faults: [string, object, string][] = [
  ['fail', {}, 'CNI ADD by plugin fake1 (network pod-net): fake failure (code 999): as asked; stderr: fake plugin failed'],
  [
    'fail',
    { error: { code: 11, msg: 'no addresses left' } },
    'CNI ADD by plugin fake1 (network pod-net): no addresses left (code 11); stderr: fake plugin failed',
  ],
  ['half', {}, 'CNI ADD by plugin fake1 (network pod-net): fake failure (code 999): as asked'],
  ['garbage', {}, 'CNI ADD by plugin fake1 (network pod-net): printed "Usage: fake [options]\\n" where a result in JSON was expected'],
  ['empty', {}, 'CNI ADD by plugin fake1 (network pod-net): exited with 0 but printed no result'],
  ['crash', {}, 'CNI ADD by plugin fake1 (network pod-net): command failed with exit code 2: BIN/fake1: panic: fake'],
  ['kill', {}, 'CNI ADD by plugin fake1 (network pod-net): command was killed by SIGKILL: BIN/fake1'],
  ['huge', {}, 'CNI ADD by plugin fake1 (network pod-net): command printed too much: BIN/fake1'],
  ['ok', { result: { cniVersion: '9.0.0' } }, 'CNI ADD by plugin fake1 (network pod-net): answered in CNI version "9.0.0", which is not understood'],
  ['ok', { result: { code: 7, msg: 'bad conf' } }, 'CNI ADD by plugin fake1 (network pod-net): bad conf (code 7)'],
  ['ok', { result: { cniVersion: '1.0.0', ips: [] } }, 'CNI ADD by plugin fake2 (network pod-net): answered with no address for eth0'],
  ['ok', { result: { cniVersion: '1.0.0', ips: [{ address: 'x' }] } }, 'answered with ips[0].address: "x", which is not an address'],
];

test.each(faults)('attach() explains when a plugin does "%s" %j, and detach() leaves nothing', async (onAdd, more, message) => {
  await using world = await makeFakeNetwork([{}, { onAdd, ...more }, {}]);
  const planned = await world.cni.plan(pod, options());
  const err = await failure(world.cni.attach(planned, options()));
  expect(err).toBeInstanceOf(CniError);
  expect((err as CniError).message).toContain(message.replaceAll('BIN', world.bin));
  expect((err as CniError).message.length).toBeLessThan(5_000);
  await world.cni.detach(planned, options());
  expect(await world.leases()).toEqual([]);
});

test('attach() gives the plugin’s code', async () => {
  await using world = await makeFakeNetwork([{ behaviour: 'fail', error: { code: 11, msg: 'later' } }]);
  const err = await failure(world.cni.attach(await world.cni.plan(pod, options()), options()));
  expect(err).toMatchObject({ verb: 'ADD', plugin: 'fake0', network: 'pod-net', pluginCode: 11 });
  expect(world.observed).toEqual(['ADD fake0 true false']);
});

test('attach() explains when a plugin’s interpreter is not there', async () => {
  await using world = await makeFakeNetwork([{}]);
  const planned = await world.cni.plan(pod, options());
  await writeFile(join(world.bin, 'fake0'), '#!/no/such/interpreter\n', { mode: 0o755 });
  const err = await failure(world.cni.attach(planned, options()));
  expect(err).toBeInstanceOf(CniError);
  expect((err as CniError).message).toContain('fake0 is not there, or its interpreter is not');
});

test.each(['attach', 'detach'] as const)('%s() explains when a plugin’s binary is gone', async (verb) => {
  await using world = await makeFakeNetwork([{}]);
  const planned = await world.cni.plan(pod, options());
  await rm(join(world.bin, 'fake0'));
  const err = await failure(world.cni[verb](planned, options()));
  expect(err).toBeInstanceOf(CniError);
  expect((err as CniError).message).toMatch(/^CNI (ADD|DEL) by plugin fake0 \(network pod-net\): .*fake0 (was not found in|is not there)/);
});

test('detach() explains when a plugin may not be executed', async () => {
  await using world = await makeFakeNetwork([{}]);
  const planned = await world.cni.plan(pod, options());
  await rm(join(world.bin, 'fake0'));
  await writeFile(join(world.bin, 'fake0'), '#!/bin/sh\n', { mode: 0o644 });
  const err = await failure(world.cni.detach(planned, options()));
  expect(String(err)).toContain(`CNI DEL by plugin fake0 (network pod-net): plugin fake0 at ${world.bin}/fake0 is not executable`);
});

test('detach() stops at the first plugin that fails, and a retry runs the whole chain', async () => {
  await using world = await makeFakeNetwork([{}, { onDel: 'fail', times: { DEL: 2 } }, {}]);
  const { attachment } = await world.cni.attach(await world.cni.plan(pod, options()), options());
  for (const _attempt of [1, 2]) {
    await expect(world.cni.detach(attachment, options())).rejects.toThrow('CNI DEL by plugin fake1 (network pod-net): fake failure');
    expect(await world.leases()).toHaveLength(2);
  }
  await world.cni.detach(attachment, options());
  expect(await world.leases()).toEqual([]);
  expect((await world.calls()).slice(3).map(({ type }) => type)).toEqual(['fake2', 'fake1', 'fake2', 'fake1', 'fake2', 'fake1', 'fake0']);
});

test('plan() waits for a network that is not ready, saying why, and takes the one that comes', async () => {
  await using world = await makeFakeNetwork([{}], { defaultNetwork: 'later' });
  expect(world.cni.status()).toEqual({ ready: false, reason: 'NetworkPluginNotReady', message: `network later is not in ${world.net}, which has pod-net` });
  const stages: string[] = [];
  const planning = world.cni.plan(pod, { ...options(), onStage: (stage) => stages.push(stage) });
  await vi.waitFor(() => expect(stages).toEqual([`waiting for the pod network (network later is not in ${world.net}, which has pod-net)`]), {
    timeout: 10_000,
  });
  const given = new AbortController();
  const giving = failure(world.cni.plan(pod, { signal: given.signal }));
  const reason = new CriError('cancelled', 'the kubelet has left');
  given.abort(reason);
  expect(await giving).toBe(reason);
  await writeFile(join(world.net, '20.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'later', plugins: [{ type: 'fake0' }] }));
  expect((await planning).networks.map(({ conf, ifName }) => [conf.name, ifName])).toEqual([['later', 'eth0']]);
  expect(world.cni.status()).toEqual({ ready: true, reason: '', message: '' });
});

test('plan() refuses a pod that the plugins cannot be told about', async () => {
  await using world = await makeFakeNetwork([{}]);
  expect(await failure(world.cni.plan({ ...pod, name: 'a;b=c' }, options()))).toMatchObject({ kind: 'invalidArgument' });
  expect(await failure(world.cni.plan({ ...pod, annotations: { 'kubernetes.io/ingress-bandwidth': 'x' } }, options()))).toMatchObject({
    kind: 'invalidArgument',
  });
});

test('setPodCidr() keeps the range before when it is given a bad one', async () => {
  await using world = await makeFakeNetwork([{ capabilities: { ipRanges: true } }], { podCidr: '10.1.0.0/24' });
  expect(() => world.cni.setPodCidr('10.1.0.0')).toThrow(CriError);
  expect((await world.cni.plan(pod, options())).networks[0]?.capabilityArgs).toEqual({ ipRanges: [[{ subnet: '10.1.0.0/24' }]] });
  world.cni.setPodCidr('');
  expect((await world.cni.plan(pod, options())).networks[0]?.capabilityArgs).toEqual({});
});

test('info() tells of networks and of files passed over', async () => {
  await using world = await makeFakeNetwork([{}]);
  await writeFile(join(world.net, '00-bad.conf'), '');
  await vi.waitFor(() => expect(world.cni.info()).toMatchObject({ problems: [{ file: join(world.net, '00-bad.conf'), reason: 'is empty' }] }), {
    timeout: 4_000,
  });
  expect(world.cni.info()).toMatchObject({ defaultNetwork: 'pod-net', networks: [{ name: 'pod-net', cniVersion: '1.0.0', plugins: ['fake0'], missing: [] }] });
});
