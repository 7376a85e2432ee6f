// What is measured of images: a big pull, what goes on beside it, its removal, and lists of many.
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { run } from '#base/exec.ts';
import { BIG, bigLayers, SMALL_IMAGES, smallImage } from './big-image.ts';
import type { Peer } from './peer.ts';
import { add, cpuMs, type Measured, podConfig, podDown, podUp, pssKib } from './rounds.ts';

/** Memory is looked at so often: each look costs some milliseconds of a core. */
const LOOK_MS = 250;
/** Between two ContainerStatus beside a pull. */
const PAUSE_MS = 10;

/** Pulls and removes the big image twice: first left alone, then with a container that is asked for all the time. */
export async function measurePulls(peer: Peer, into: Measured): Promise<void> {
  const { cri, pid } = peer;
  const pull = async (): Promise<number> => {
    const began = performance.now();
    await cri.PullImage({ image: { image: BIG } }, { deadlineMs: 600_000 });
    return performance.now() - began;
  };
  // On the disk, as what the kubelet removes has been for long: what never got there goes at once.
  const remove = async (): Promise<number> => {
    await run('sync', [], { signal: AbortSignal.timeout(600_000) });
    const began = performance.now();
    await cri.RemoveImage({ image: { image: BIG } }, { deadlineMs: 600_000 });
    return performance.now() - began;
  };

  const cpuBefore = cpuMs(pid);
  const watched = await beside(() => memoryOfTree(pid), LOOK_MS, pull);
  add(into.samples, 'PullImage, big', watched.result);
  add(into.figures, 'daemon CPU for the big pull', cpuMs(pid) - cpuBefore);
  add(into.figures, 'peak PSS of all processes in the pull', Math.max(...watched.seen) / 1024);
  add(into.samples, 'RemoveImage, big', await remove());

  const logs = join(peer.directory, 'logs');
  await mkdir(logs, { recursive: true });
  const up = await podUp(peer, podConfig(peer, logs));
  const ask = async (): Promise<number> => {
    const began = performance.now();
    await cri.ContainerStatus({ container_id: up.container });
    return performance.now() - began;
  };
  for (const ms of (await beside(ask, PAUSE_MS, pull)).seen) add(into.samples, 'ContainerStatus within the pull', ms);
  for (const ms of (await beside(ask, PAUSE_MS, remove)).seen) add(into.samples, 'ContainerStatus within the removal', ms);
  await podDown(peer, up);
}

/** Lists and sums with many images there. */
export async function measureManyImages({ cri }: Peer, calls: number, into: Measured): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      while (next < SMALL_IMAGES) {
        next += 1;
        await cri.PullImage({ image: { image: smallImage(next - 1) } }, { deadlineMs: 600_000 });
      }
    }),
  );
  for (let index = 0; index < calls; index += 1) {
    for (const [key, work] of [
      [`ListImages, ${SMALL_IMAGES} images`, () => cri.ListImages()],
      ['ImageFsInfo', () => cri.ImageFsInfo()],
    ] as const) {
      const began = performance.now();
      await work();
      add(into.samples, key, performance.now() - began);
    }
  }
}

/** The limit: gzip and tar over the big image's layers, all at once, into a directory beside those of the peers. */
export async function measureLimit(into: Measured): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'bl'));
  const layers = await bigLayers();
  const began = performance.now();
  await Promise.all(
    layers.map(async (layer, index) => {
      const into = join(directory, String(index));
      await mkdir(into);
      await run('sh', ['-c', 'gzip -dc "$1" | tar -x -C "$2"', 'sh', layer, into], { signal: AbortSignal.timeout(600_000) });
    }),
  );
  add(into.samples, 'gzip -d into tar -x', performance.now() - began);
  await rm(directory, { recursive: true, force: true });
}

/** Does `look` again and again while `work` runs. */
async function beside<T, S>(look: () => Promise<S>, pauseMs: number, work: () => Promise<T>): Promise<{ result: T; seen: S[] }> {
  const seen: S[] = [];
  let ended = false;
  const looking = (async () => {
    while (!ended) {
      seen.push(await look());
      await sleep(pauseMs);
    }
  })();
  try {
    return { result: await work(), seen };
  } finally {
    ended = true;
    await looking;
  }
}

/** KiB of a process and all its descendants. */
async function memoryOfTree(root: number): Promise<number> {
  const parents = new Map<number, number>();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const text = await readFile(`/proc/${name}/stat`, 'latin1').catch(() => '');
    parents.set(Number(name), Number(text.split(') ').at(-1)?.split(' ')[1] ?? 0));
  }
  const isOfTree = (pid: number): boolean => {
    for (let at: number | undefined = pid; at !== undefined && at > 1; at = parents.get(at)) if (at === root) return true;
    return false;
  };
  let sum = 0;
  for (const pid of [...parents.keys()].filter(isOfTree)) {
    try {
      sum += pssKib(pid);
    } catch {
      // ended meanwhile
    }
  }
  return sum;
}
