// Berth's CNI beside the same plugins executed by hand: one chain after the other, and many at once.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '#base/exec.ts';
import { newId } from '#base/id.ts';
import { silentLog } from '#base/log.ts';
import { MNT, umount } from '#base/sys.ts';
import { type Attachment, Cni, type PodNetwork } from '../../cni/cni.ts';
import { add, type Measured } from './rounds.ts';

const PLUGINS = '/usr/lib/cni';
const NETWORK = 'nbench0';

const signal = (): AbortSignal => AbortSignal.timeout(120_000);

/** Adds samples `CNI chain` and `CNI chain by hand`, and with many pods at once `CNI chains` and `CNI chains by a shell loop`. */
export async function measureNetworks(
  { samples, pods, atOnce }: { readonly samples: number; readonly pods: number; readonly atOnce: number },
  into: Measured,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'bn'));
  const conflist = writtenConflist(directory);
  await mkdir(join(directory, 'net.d'));
  await writeFile(join(directory, 'net.d/10-bench.conflist'), JSON.stringify(conflist));
  const settings = {
    defaultNetwork: '',
    additionalNetworks: [],
    addTimeoutMs: 60_000,
    delTimeoutMs: 60_000,
    parallel: atOnce,
    statusGraceMs: 0,
    hostPorts: true,
  };
  const cni = await Cni.open({ networkDir: join(directory, 'net.d'), pluginDirs: [PLUGINS], cacheDir: join(directory, 'cache'), settings, log: silentLog });
  const down = async (attachment: Attachment): Promise<void> => {
    await cni.detach(attachment, { signal: signal() });
    umount(attachment.pod.netns, MNT.DETACH);
    await rm(attachment.pod.netns);
  };
  try {
    const warm = 3;
    for (let index = 0; index < warm + samples; index += 1) {
      const [ours, byHand] = [await plan(cni, directory), await plan(cni, directory)];
      const time = async (key: string, work: () => Promise<unknown>): Promise<void> => {
        const began = performance.now();
        await work();
        if (index >= warm) add(into.samples, key, performance.now() - began);
      };
      await time('CNI chain', () => cni.attach(ours, { signal: signal() }));
      await time('CNI chain by hand', () => addByHand(byHand, conflist));
      for (const attachment of [ours, byHand]) await down(attachment);
    }

    const all = async (): Promise<Attachment[]> => {
      const planned: Attachment[] = [];
      for (let index = 0; index < pods; index += 1) planned.push(await plan(cni, directory));
      return planned;
    };
    const ours = await all();
    let began = performance.now();
    await Promise.all(ours.map((attachment) => cni.attach(attachment, { signal: signal() })));
    add(into.samples, 'CNI chains', performance.now() - began);
    await Promise.all(ours.map(down));

    const byLoop = await all();
    const script = join(directory, 'chain');
    await writeFile(script, shellScript(conflist), { mode: 0o755 });
    const list = byLoop.map(({ pod }) => `${pod.id} ${pod.netns}\n`).join('');
    began = performance.now();
    await run('xargs', ['-P', String(atOnce), '-n', '2', script], { signal: signal(), input: list });
    add(into.samples, 'CNI chains by a shell loop', performance.now() - began);
    await Promise.all(byLoop.map(down));
  } finally {
    await cni[Symbol.asyncDispose]();
    await run('ip', ['link', 'del', NETWORK], { signal: signal() }).catch(() => {});
    await rm(directory, { recursive: true, force: true });
  }
}

function writtenConflist(directory: string) {
  const ipam = { type: 'host-local', dataDir: join(directory, 'ipam'), ranges: [[{ subnet: '10.63.0.0/16' }]], routes: [{ dst: '0.0.0.0/0' }] };
  const bridge = { type: 'bridge', bridge: NETWORK, isGateway: true, ipMasq: true, hairpinMode: true, ipam };
  return { cniVersion: '1.0.0', name: NETWORK, plugins: [bridge, { type: 'portmap', capabilities: { portMappings: true } }] };
}

type Conflist = ReturnType<typeof writtenConflist>;

async function plan(cni: Cni, directory: string): Promise<Attachment> {
  const id = newId();
  const netns = join(directory, id.slice(0, 12));
  await writeFile(netns, '');
  await run('unshare', [`--net=${netns}`, 'true'], { signal: signal() });
  const pod: PodNetwork = { id, netns, namespace: 'bench', name: `p${id.slice(0, 6)}`, uid: id, portMappings: [], annotations: {} };
  return await cni.plan(pod, { signal: signal() });
}

/** What each plugin is given, in the order of the chain; the result before it goes in as `prevResult`. */
function inputs({ cniVersion, name, plugins }: Conflist): { type: string; head: string }[] {
  return plugins.map(({ type, ...rest }) => ({ type, head: JSON.stringify({ type, ...rest, capabilities: undefined, cniVersion, name }).slice(0, -1) }));
}

/** The chain from this process, with nothing done that need not be. */
async function addByHand({ pod }: Attachment, conflist: Conflist): Promise<void> {
  const env = { CNI_COMMAND: 'ADD', CNI_CONTAINERID: pod.id, CNI_NETNS: pod.netns, CNI_IFNAME: 'eth0', CNI_PATH: PLUGINS };
  let result = '';
  for (const { type, head } of inputs(conflist)) {
    const input = result === '' ? `${head}}` : `${head},"prevResult":${result}}`;
    ({ stdout: result } = await run(join(PLUGINS, type), [], { signal: signal(), env, input, hot: true }));
  }
}

/** The same in a shell, for the pod of its arguments: id and path of the namespace. */
function shellScript(conflist: Conflist): string {
  const [first, second] = inputs(conflist);
  return `#!/bin/sh
export CNI_COMMAND=ADD CNI_CONTAINERID=$1 CNI_NETNS=$2 CNI_IFNAME=eth0 CNI_PATH=${PLUGINS}
result=$(echo '${first?.head}}' | ${PLUGINS}/${first?.type}) || exit 255
echo '${second?.head},"prevResult":'"$result"'}' | ${PLUGINS}/${second?.type} >/dev/null || exit 255
`;
}
