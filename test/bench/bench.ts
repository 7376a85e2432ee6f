// `npm run bench [-- --pods 50 --samples 20 --rounds 2 --only pods|images|streams|networks --out FILE]`: Berth's bundle and Debian's containerd, both with
// crun and the same conflist, in turn in one run. Prints a table and writes it, with all samples beside it as JSON.
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { run } from '#base/exec.ts';
import { findTool } from '../support/tool.ts';
import { startBenchRegistry } from './big-image.ts';
import { measureNetworks } from './networks.ts';
import { type Peer, startBerth, startContainerd } from './peer.ts';
import { measureLimit, measureManyImages, measurePulls } from './pulls.ts';
import { IMAGE, type Measured, measured, measureIdle, measureMany, measureSingle } from './rounds.ts';
import { measureStreams } from './streams.ts';
import { machine, table } from './table.ts';

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '50' },
    samples: { type: 'string', default: '20' },
    rounds: { type: 'string', default: '2' },
    only: { type: 'string', default: '' },
    out: { type: 'string', default: join(import.meta.dirname, 'results.md') },
  },
});
const pods = Number(values.pods);
const samples = Number(values.samples);
const [withPods, withImages, withStreams, withNetworks] = ['pods', 'images', 'streams', 'networks'].map((part) => values.only === '' || values.only === part);

if (findTool('containerd') === undefined) throw new Error('containerd is missing: apt-get install --no-install-recommends containerd');
const long = AbortSignal.timeout(600_000);
await run(process.execPath, [join(import.meta.dirname, '../../contrib/build.ts')], { signal: long, env: { HOME: process.env.HOME ?? '/root' } });

async function bench(): Promise<void> {
  await using registry = await startBenchRegistry();
  const results: Record<Peer['name'], Measured> = { berth: measured(), containerd: measured() };
  const load = (): string => readFileSync('/proc/loadavg', 'latin1').split(' ')[0] ?? '';
  const loadBefore = load();

  for (let round = 0; round < Number(values.rounds); round += 1) {
    // One at a time: what the other one holds, in memory and in the kernel, would show in the figures of both.
    for (const start of [startBerth, startContainerd]) {
      await using peer = await start(registry.address);
      const into = results[peer.name];
      console.error(`round ${round + 1}: ${peer.name}, load ${load()}`);
      await peer.cri.PullImage({ image: { image: IMAGE } });
      if (withPods) {
        await measureSingle(peer, { pods: samples, warm: 3 }, into);
        await measureMany(peer, { pods, atOnce: 10, calls: 30 }, into);
      }
      if (withStreams) await measureStreams(peer, 3, into);
      if (withImages) await measurePulls(peer, into);
    }
    if (withImages) await measureLimit(results.berth);
    if (withNetworks) await measureNetworks({ samples, pods, atOnce: 10 }, results.berth);
    for (const start of [startBerth, startContainerd]) {
      await using peer = await start(registry.address);
      if (withPods) await measureIdle(peer, 20, results[peer.name]);
      if (withImages && round === 0) await measureManyImages(peer, 100, results[peer.name]);
    }
  }

  const text = [
    `Taken on ${new Date().toISOString().slice(0, 10)} on ${machine()}; load ${loadBefore} before, ${load()} after; ${samples * Number(values.rounds)} pods one by one, ${values.rounds} times ${pods} pods ten at a time; medians unless said.`,
    '',
    table(results.berth, results.containerd, pods),
  ].join('\n');
  console.log(text);
  await writeFile(values.out, text);
  const raw = Object.fromEntries(
    Object.entries(results).map(([name, { samples: timed, figures }]) => [name, { ...Object.fromEntries(timed), ...Object.fromEntries(figures) }]),
  );
  await writeFile(values.out.replace(/(\.md)?$/, '.json'), `${JSON.stringify(raw)}\n`);
}

await bench();
process.exit(0); // grpc-js keeps timers of channels that are closed
