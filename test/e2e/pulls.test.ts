import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from '#base/abort.ts';
import { CommandError, run } from '#base/exec.ts';
import { askDaemon } from '../../server/cli/admin-client.ts';
import type { CheckFinding } from '../../storage/storage.ts';
import { DockerRegistry } from '../fixtures/storage/docker-registry.ts';
import { makeImage, writeLayout } from '../fixtures/storage/image.ts';
import { type CountingProxy, countingProxy } from '../support/counting-proxy.ts';
import { berthCommand, type Daemon, startDaemon } from '../support/daemon.ts';
import { until } from '../support/wait.ts';

const NAME = 'registry.k8s.io/kill/app:1';
const MIB = 1024 * 1024;
/** How often the daemon is killed at a random moment; a hundred times takes some minutes. */
const RANDOM_KILLS = Number(process.env.RANDOM_KILLS ?? 4);

/** Layers that do not compress, one of which needs the one below it, and the last of many files. */
const image = makeImage([
  { entries: [{ name: 'd/' }, { name: 'd/a', content: randomBytes(3 * MIB) }] },
  {
    entries: [
      { name: 'd/b', type: '1', link: 'd/a' },
      { name: 'd/c', content: randomBytes(2 * MIB) },
    ],
  },
  { entries: Array.from({ length: 1_000 }, (_, index) => ({ name: `many/${index}`, content: `${index}` })) },
  { entries: [{ name: 'e', content: randomBytes(4 * MIB) }] },
]);
const hexOf = (digest: string): string => digest.slice('sha256:'.length);
const sizes = new Map(image.layerDigests.map((digest) => [hexOf(digest), image.blobs.get(digest)?.length ?? 0]));

let registry: DockerRegistry;
let line: CountingProxy;
let daemon: Daemon;

beforeAll(async () => {
  registry = await DockerRegistry.start();
  await using dir = await mkdtempDisposable(join(tmpdir(), 'kill-'));
  await writeLayout(dir.path, [{ image, name: 'app' }]);
  await run(
    'skopeo',
    ['copy', '-q', '--preserve-digests', '--dest-tls-verify=false', '--insecure-policy', `oci:${dir.path}:app`, `docker://${registry.host}/kill/app:1`],
    {
      signal: AbortSignal.timeout(60_000),
    },
  );
  line = await countingProxy(registry.host, 8 * MIB);
  daemon = await startDaemon({ handler: 'crun', registry: line.address, config: { image: { max_parallel_downloads: 2 } } });
});

afterAll(async () => {
  await daemon?.[Symbol.asyncDispose]();
  await line?.[Symbol.asyncDispose]();
  await registry?.[Symbol.asyncDispose]();
});

afterEach(async () => {
  await daemon.cri.RemoveImage({ image: { image: NAME } });
});

const list = (...path: string[]): string[] => (existsSync(join(daemon.root, ...path)) ? readdirSync(join(daemon.root, ...path)) : []);

/** What of each blob is on the disk, in bytes. */
function leftOver(): Map<string, number> {
  return new Map(list('downloads').map((name) => [name, statSync(join(daemon.root, 'downloads', name)).size]));
}

/** What came over the line for each blob, since request `from`. */
function transferred(from: number): Map<string, number> {
  const sums = new Map<string, number>();
  for (const { path, bytes } of line.requests.slice(from)) {
    const hex = /\/blobs\/sha256:([0-9a-f]{64})$/.exec(path)?.[1];
    if (hex !== undefined && sizes.has(hex)) sums.set(hex, (sums.get(hex) ?? 0) + bytes);
  }
  return sums;
}

async function findings(): Promise<CheckFinding[]> {
  const found: CheckFinding[] = [];
  const lines = askDaemon<{ finding?: CheckFinding }>(join(daemon.runroot, 'admin.sock'), { method: 'POST', path: '/images/check?full=1' });
  for await (const { finding } of lines) if (finding !== undefined) found.push(finding);
  return found;
}

/** Nothing half-made is there: what is listed is whole, and what is not listed is no image. */
async function expectWhole(): Promise<void> {
  const bad = (await findings()).filter(({ kind }) => kind !== 'orphaned');
  expect(bad).toEqual([]);
  expect(list('staging')).toEqual([]);
  const { images } = await daemon.cri.ListImages();
  expect(images.length).toBe(list('images').length);
  for (const { id } of images) expect(id).toBe(image.id);
}

/** The next pull works, and asks for nothing that was whole, nor for the bytes that had come of the rest. */
async function expectReuse(): Promise<void> {
  const left = leftOver();
  const placed = list('layers').length;
  const from = line.requests.length;
  const { image_ref } = await daemon.cri.PullImage({ image: { image: NAME } }, { deadlineMs: 60_000 });
  expect(image_ref).toBe(image.id);
  const moved = transferred(from);
  for (const [hex, size] of sizes) expect([0, size - (left.get(hex) ?? 0)]).toContain(moved.get(hex) ?? 0);
  expect([...moved.values()].filter((bytes) => bytes > 0).length).toBeLessThanOrEqual(sizes.size - placed);
  expect(list('downloads')).toEqual([]);
  expect((await daemon.cri.ImageStatus({ image: { image: NAME } })).image?.id).toBe(image.id);
  expect((await findings()).filter(({ kind }) => kind !== 'orphaned')).toEqual([]);
}

/** Starts a call, kills the daemon as soon as `moment` has come or the call has ended, and starts it again. */
async function killDuring(call: () => Promise<unknown>, moment: () => boolean): Promise<void> {
  let ended = false;
  const running = call().then(
    () => (ended = true),
    () => (ended = true),
  );
  while (!moment() && !ended) await sleep(1);
  await daemon.kill('SIGKILL');
  await running;
  await daemon.start();
}

const pull = (): Promise<unknown> => daemon.cri.PullImage({ image: { image: NAME } }, { deadlineMs: 60_000 });
const elapsed = (ms: number): (() => boolean) => {
  const then = performance.now() + ms;
  return () => performance.now() >= then;
};

describe('a daemon that is killed within a pull', () => {
  const asked = (from: number, part: string): number => line.requests.slice(from).filter(({ path }) => path.includes(part)).length;
  const config = hexOf(image.id);
  const moments: readonly [string, (from: number) => boolean][] = [
    ['once it asks for the manifest', (from) => asked(from, '/manifests/') > 0],
    ['once it asks for the config', (from) => asked(from, config) > 0],
    ['once it asks for a layer', () => list('downloads').length > 0],
    ['with a layer half here', () => [...leftOver()].some(([hex, size]) => size > (sizes.get(hex) ?? 0) / 2)],
    ['with a layer whole', () => [...leftOver()].some(([hex, size]) => size === sizes.get(hex))],
    ['while it unpacks', () => list('staging').some((name) => existsSync(join(daemon.root, 'staging', name, 'diff/many')))],
    ['with the first layer in its place', () => list('layers').length > 0],
    ['with all layers in their places', () => list('layers').length === sizes.size],
    ['once the image has its config', () => list('blobs').length > 0],
    ['once the image has its record', () => list('images').length > 0],
  ];

  test.each(moments)('%s, keeps what was whole', async (_when, moment) => {
    const from = line.requests.length;
    await killDuring(pull, () => moment(from));
    await expectWhole();
    await expectReuse();
  });

  test(`at ${RANDOM_KILLS} random moments of pulls and removals, keeps what was whole`, { timeout: 60_000 + RANDOM_KILLS * 30_000 }, async () => {
    for (let round = 0; round < RANDOM_KILLS; round += 1) {
      const delayMs = Math.random() * 2_000;
      await killDuring(pull, elapsed(delayMs));
      await expectWhole();
      await expectReuse();
      await killDuring(() => daemon.cri.RemoveImage({ image: { image: NAME } }), elapsed(Math.random() * 60));
      await expectWhole();
      if (round % 2 === 0) await daemon.cri.RemoveImage({ image: { image: NAME } });
    }
  });

  test('while its pull is joined by others, loses none of what they wanted', async () => {
    await killDuring(() => Promise.allSettled([pull(), pull()]), elapsed(700));
    const from = line.requests.length;
    await Promise.all([pull(), pull(), pull()]);
    expect(asked(from, '/manifests/')).toBe(1);
    await expectWhole();
  });
});

describe('a pull over a slow line', () => {
  const berth = async (...args: string[]): Promise<{ exitCode: number | undefined; stdout: string; stderr: string }> => {
    const [file, ...first] = berthCommand();
    try {
      return { exitCode: 0, ...(await run(file, [...first, 'image', ...args, '--config', daemon.configFile], { signal: AbortSignal.timeout(60_000) })) };
    } catch (err) {
      if (err instanceof CommandError) return err;
      throw err;
    }
  };

  test('ends at its deadline with how far it is; is seen from a second terminal; is joined and finished', async () => {
    const from = line.requests.length;
    line.bytesPerSecond = 128 * 1024;
    const late = daemon.cri.PullImage({ image: { image: NAME } }, { deadlineMs: 10_000 });
    const told = expect(late).rejects.toMatchObject({
      code: status.DEADLINE_EXCEEDED,
      details: expect.stringMatching(
        new RegExp(
          `^PullImage: pulling image ${NAME} \\(\\d of 4 layers done, \\d\\.\\d of \\d\\.\\d MiB at \\d\\.\\d MiB/s from ${line.address}\\) did not finish within the deadline$`,
        ),
      ),
    });
    await until('the pull to be seen', async () => (await berth('pulls')).stdout.includes('downloading'));
    const { stdout } = await berth('pulls', '--json');
    expect(JSON.parse(stdout)).toMatchObject([{ image: NAME, stage: 'layers', waiters: 1, layers: [{}, {}, {}, {}] }]);
    await told;
    line.bytesPerSecond = 2 * MIB; // slow enough for progress to be told
    const { exitCode, stdout: id, stderr } = await berth('pull', NAME);
    expect({ exitCode, id, stderr }).toMatchObject({ exitCode: 0, id: `${image.id}\n`, stderr: expect.stringContaining(`${NAME}: `) });
    expect(line.requests.slice(from).filter(({ path }) => path.includes('/manifests/')).length).toBe(1);
  });

  test('berth image ls, check and rm answer with the exit code', async () => {
    await pull();
    expect(await berth('ls')).toMatchObject({ exitCode: 0, stdout: expect.stringContaining(NAME) });
    expect(await berth('check', '--full')).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('nothing is wrong') });
    expect(await berth('rm', NAME)).toMatchObject({ exitCode: 0, stdout: `${image.id}\n` });
    expect(await berth('rm', NAME)).toMatchObject({ exitCode: 1, stderr: `berth: image ${NAME} is not in the store\n` });
    expect(await berth('pull', 'registry.k8s.io/kill/none:1')).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/^berth: pull registry.k8s.io\/kill\/none:1: .*is not there/m),
    });
    expect(await berth('pull')).toMatchObject({ exitCode: 2 });
    await daemon.kill('SIGTERM');
    expect(await berth('ls')).toMatchObject({ exitCode: 1, stderr: expect.stringContaining(`no daemon listens on ${daemon.runroot}/admin.sock`) });
    await daemon.start();
  });
});
