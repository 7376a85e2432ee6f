import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { serveAdmin } from '../../../server/admin.ts';
import { imageRoutes } from '../../../server/admin-images.ts';
import { type ImageCommand, runImageCommand } from '../../../server/cli/image.ts';
import type { PullProgress } from '../../../storage/storage.ts';
import { FakeRegistry, type FakeRegistryOptions } from '../../fakes/registry.ts';
import { contentOf, makeImage, writeLayout } from '../../fixtures/storage/image.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const image = makeImage([{ entries: [{ name: 'a', content: randomBytes(400_000) }] }, { entries: [{ name: 'b', content: 'b' }] }]);
const big = image.layerDigests[0] as string;

/** A real store behind a real admin socket, and a registry that it knows as example.com. */
async function setUp(options: FakeRegistryOptions = {}) {
  const stack = new AsyncDisposableStack();
  const registry = stack.use(await FakeRegistry.start(contentOf({ 'app:1': image }), options));
  const store = stack.use(await TestStore.open({ pullProgressTimeoutMs: 2_000 }));
  await store.redirect('example.com', registry.host);
  const socketPath = join(store.dir, 'admin.sock');
  const deps = { storage: store.storage, stagingDir: join(store.root, 'staging'), log: silentLog };
  stack.use(await serveAdmin({ path: socketPath, routes: imageRoutes(deps), log: silentLog }));
  const berth = async (command: ImageCommand, { stdin = Readable.from([]), terminal = false }: { stdin?: NodeJS.ReadableStream; terminal?: boolean } = {}) => {
    const said = { stdout: '', stderr: '' };
    const stdout = { write: (text: string) => (said.stdout += text) };
    const stderr = { write: (text: string) => (said.stderr += text), isTTY: terminal, columns: 100, rows: 30 };
    const code = await runImageCommand(command, { socketPath, stdin, stdout, stderr });
    return { code, ...said };
  };
  return { registry, store, berth, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const pull = (request: Partial<Extract<ImageCommand, { verb: 'pull' }>['request']> = {}, how: { quiet?: boolean; json?: boolean } = {}): ImageCommand => ({
  verb: 'pull',
  request: { reference: 'example.com/app:1', ...request },
  quiet: false,
  json: false,
  ...how,
});

describe('berth image pull', () => {
  test.each([false, true])('shows where each layer is, on a terminal: %s', async (terminal) => {
    // the first answer stalls until the connection is found broken, so that there is something to see
    await using at = await setUp({ fault: ({ path, count }) => (path.includes(big) && count <= 3 ? 'break' : undefined) });
    const { code, stdout, stderr } = await at.berth(pull(), { terminal });
    expect([code, stdout]).toEqual([0, `${image.id}\n`]);
    if (terminal) expect(stderr).toMatch(/, \d retr/);
    if (terminal) expect(stderr).toMatch(new RegExp(`${big.slice(7, 19)} \\[=*>? *\\] +0\\.\\d/0\\.4 MiB downloading`));
    else expect(stderr).toContain(`layer ${big.slice(7, 19)} (0.4 MiB): downloading from ${at.registry.host}\n`);
    expect(stderr).toMatch(/example.com\/app:1: 0 of 2 layers done, 0.\d of 0.4 MiB at .* from .*/);
    expect((await at.berth(pull({}, { quiet: true }))).stderr).toBe('');
  });

  test('takes credentials from --creds and --authfile, and says why it fails', async () => {
    await using at = await setUp({ auth: 'basic', users: { alice: 'secret-word' } });
    await expect(at.berth(pull())).rejects.toThrow(/^pull example.com\/app:1: .*registry wants credentials/);
    const authFile = join(at.store.dir, 'my-auth.json');
    await expect(at.berth(pull({ authFile }))).rejects.toThrow(`credentials file ${authFile}: cannot be read`);
    await writeFile(authFile, JSON.stringify({ auths: { 'example.com': { auth: Buffer.from('alice:secret-word').toString('base64') } } }));
    expect(await at.berth(pull({ authFile }))).toMatchObject({ code: 0, stdout: `${image.id}\n` });
    expect(await at.berth(pull({ username: 'alice', password: 'secret-word' }))).toMatchObject({ code: 0 });
    await expect(at.berth(pull({ username: 'alice', password: 'wrong' }))).rejects.toThrow('refuses the credentials (401)');
  });

  test('is seen by others, and ends soon after its caller has gone', async () => {
    await using at = await setUp({ fault: ({ path }) => (path.includes(big) ? 'hang' : undefined) });
    const pulling = at.berth(pull({}, { json: true })).catch((err: unknown) => err);
    const pulls = await vi.waitFor(
      async () => {
        const seen = JSON.parse((await at.berth({ verb: 'pulls', json: true })).stdout) as PullProgress[];
        expect(seen[0]?.receivedBytes).toBeGreaterThan(100_000);
        return seen;
      },
      { timeout: 30_000 },
    );
    expect(pulls).toMatchObject([{ image: 'example.com/app:1', waiters: 1, layers: [{ digest: big, state: 'downloading' }, {}] }]);
    const shown = (await at.berth({ verb: 'pulls', json: false })).stdout;
    expect(shown).toMatch(/^example.com\/app:1: 0 of 2 layers done.*\n {2}[0-9a-f]{12} \[=+> +\]/);
    expect(await pulling).toMatchObject({ message: expect.stringContaining('no progress') });
  });
});

test('berth image ls and rm know images by their names', async () => {
  await using at = await setUp();
  await at.berth(pull());
  const table = (await at.berth({ verb: 'ls', quiet: false, json: false })).stdout;
  expect(table).toMatch(new RegExp(`^NAME +ID +SIZE\\nexample.com/app:1  ${image.id.slice(7, 19)} +0.4 MiB\\n$`));
  expect(JSON.parse((await at.berth({ verb: 'ls', quiet: false, json: true })).stdout)).toMatchObject([{ id: image.id, pinned: false }]);
  expect((await at.berth({ verb: 'ls', quiet: true, json: false })).stdout).toBe(`${image.id}\n`);
  const removed = await at.berth({ verb: 'rm', names: ['example.com/other', 'example.com/app:1'] });
  expect(removed).toEqual({ code: 1, stdout: `${image.id}\n`, stderr: 'berth: image example.com/other is not in the store\n' });
  expect(at.store.storage.images()).toEqual([]);
});

describe('berth image load', () => {
  let archive: Buffer;
  beforeAll(async () => {
    await using store = await TestStore.open();
    const layout = join(store.dir, 'layout');
    await writeLayout(layout, [{ image, name: 'example.com/app:1' }]);
    const path = join(store.dir, 'oci.tar');
    await run('tar', ['-C', layout, '-cf', path, '.'], { signal: AbortSignal.timeout(30_000) });
    archive = Buffer.concat(await createReadStream(path).toArray());
  });

  test.each([
    ['as it is', (bytes: Buffer) => bytes],
    ['through gzip', (bytes: Buffer) => gzipSync(bytes)],
    ['through zstd', (bytes: Buffer) => zstdCompressSync(bytes)],
  ])('takes an archive from stdin %s', async (_how, pack) => {
    await using at = await setUp();
    const loaded = await at.berth({ verb: 'load', source: '-', imageName: undefined, json: false }, { stdin: Readable.from([pack(archive)]) });
    expect(loaded).toMatchObject({ code: 0, stdout: `${image.id} example.com/app:1\n` });
    expect((await at.store.leftovers()).staging).toEqual([]);
  });

  test('takes the directory of an OCI layout', async () => {
    await using at = await setUp();
    const source = join(at.store.dir, 'layout');
    await writeLayout(source, [{ image, name: 'example.com/app:1' }]);
    expect(await at.berth({ verb: 'load', source, imageName: 'other:2', json: false })).toMatchObject({ stdout: `${image.id} docker.io/library/other:2\n` });
  });
});
