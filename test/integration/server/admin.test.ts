import { mkdir, mkdtempDisposable, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { silentLog } from '#base/log.ts';
import { type AdminDeps, serveAdmin } from '../../../server/admin.ts';
import { loadImage } from '../../../server/cli/image.ts';

async function setUp(load: AdminDeps['load']) {
  const stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await mkdtempDisposable(join(tmpdir(), 'berth-admin-')));
  const stagingDir = join(dir, 'staging');
  await mkdir(stagingDir);
  const socketPath = join(dir, 'admin.sock');
  stack.use(await serveAdmin({ path: socketPath, stagingDir, load, log: silentLog }));
  return { dir, stagingDir, socketPath, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const stdin = Readable.from([]);

test('loadImage() hands an archive over, and its copy is gone afterwards', async () => {
  const bytes = Buffer.alloc(300_000, 'archive');
  await using admin = await setUp(async (path, { name }) => {
    expect(await readFile(path)).toEqual(bytes);
    return [{ id: 'sha256:1', repoTags: [name ?? ''] }];
  });
  const source = join(admin.dir, 'x.tar');
  await writeFile(source, bytes);
  const fromFile = await loadImage({ socketPath: admin.socketPath, source, name: 'a:1', stdin });
  const fromPipe = await loadImage({ socketPath: admin.socketPath, source: '-', name: 'a:2', stdin: Readable.from([bytes.subarray(0, 7), bytes.subarray(7)]) });
  expect([...fromFile, ...fromPipe]).toEqual([
    { id: 'sha256:1', repoTags: ['a:1'] },
    { id: 'sha256:1', repoTags: ['a:2'] },
  ]);
  expect(await readdir(admin.stagingDir)).toEqual([]);
});

test('loadImage() names a directory, which the daemon reads itself', async () => {
  const asked: string[] = [];
  await using admin = await setUp(async (path) => {
    asked.push(path);
    return [];
  });
  await loadImage({ socketPath: admin.socketPath, source: admin.dir, name: undefined, stdin });
  expect(asked).toEqual([admin.dir]);
});

test('loadImage() rejects with what the daemon found wrong, and leaves no copy', async () => {
  await using admin = await setUp(async () => {
    throw new CriError('invalidArgument', 'archive: no manifest');
  });
  await expect(loadImage({ socketPath: admin.socketPath, source: '-', name: undefined, stdin: Readable.from(['x']) })).rejects.toThrow('archive: no manifest');
  expect(await readdir(admin.stagingDir)).toEqual([]);
});

test('loadImage() says which socket nobody listens on', async () => {
  await expect(loadImage({ socketPath: '/nonexistent/admin.sock', source: '-', name: undefined, stdin })).rejects.toThrow(
    'no daemon listens on /nonexistent/admin.sock',
  );
});

test('serveAdmin() cancels the load when its client goes', async () => {
  const cancelled = Promise.withResolvers<unknown>();
  const started = Promise.withResolvers<void>();
  await using admin = await setUp((_path, { signal }) => {
    started.resolve();
    return new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        cancelled.resolve(signal.reason);
        reject(signal.reason);
      });
    });
  });
  const call = request({ socketPath: admin.socketPath, path: '/images/load?path=/x', method: 'POST' });
  call.on('error', () => {});
  call.end();
  await started.promise;
  call.destroy();
  expect(await cancelled.promise).toMatchObject({ kind: 'cancelled' });
});

test('serveAdmin() removes what an upload that breaks off had sent', async () => {
  await using admin = await setUp(async () => []);
  const call = request({ socketPath: admin.socketPath, path: '/images/load', method: 'POST' });
  call.on('error', () => {});
  call.write('half');
  await expect.poll(() => readdir(admin.stagingDir)).toHaveLength(1);
  call.destroy();
  await expect.poll(() => readdir(admin.stagingDir)).toEqual([]);
});

test('serveAdmin() is for its owner alone, replaces a stale socket, and takes it away', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-admin-'));
  const path = join(dir.path, 'admin.sock');
  await writeFile(path, 'stale');
  {
    await using _admin = await serveAdmin({ path, stagingDir: dir.path, load: async () => [], log: silentLog });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  }
  expect(await readdir(dir.path)).toEqual([]);
});
