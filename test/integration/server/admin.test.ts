import { mkdir, mkdtempDisposable, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { silentLog } from '#base/log.ts';
import { serveAdmin } from '../../../server/admin.ts';
import { type ImageRoutesDeps, imageRoutes } from '../../../server/admin-images.ts';
import { askOnce } from '../../../server/cli/admin-client.ts';
import { runImageCommand } from '../../../server/cli/image.ts';
import type { Image, ImageId } from '../../../storage/storage.ts';

type Load = (path: string, options: { name?: string; signal: AbortSignal }) => Promise<Pick<Image, 'id' | 'repoTags'>[]>;

async function setUp(load: Load) {
  const stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await mkdtempDisposable(join(tmpdir(), 'berth-admin-')));
  const stagingDir = join(dir, 'staging');
  await mkdir(stagingDir);
  const socketPath = join(dir, 'admin.sock');
  const storage = { load } as unknown as ImageRoutesDeps['storage']; // all that is asked here
  stack.use(await serveAdmin({ path: socketPath, routes: imageRoutes({ storage, stagingDir, log: silentLog }), log: silentLog }));
  return { dir, stagingDir, socketPath, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** `berth image load`; gives what it prints. */
async function loadImage({ socketPath, source, name, stdin = Readable.from([]) }: { socketPath: string; source: string; name?: string; stdin?: Readable }) {
  let said = '';
  const stdout = { write: (text: string) => (said += text) };
  expect(await runImageCommand({ verb: 'load', source, imageName: name, json: false }, { socketPath, stdin, stdout, stderr: stdout })).toBe(0);
  return said;
}

test('berth image load hands an archive over, and its copy is gone afterwards', async () => {
  const bytes = Buffer.alloc(300_000, 'archive');
  await using admin = await setUp(async (path, { name }) => {
    expect(await readFile(path)).toEqual(bytes);
    return [{ id: 'sha256:1' as ImageId, repoTags: [name ?? ''] }];
  });
  const source = join(admin.dir, 'x.tar');
  await writeFile(source, bytes);
  const fromFile = await loadImage({ socketPath: admin.socketPath, source, name: 'a:1' });
  const fromPipe = await loadImage({ socketPath: admin.socketPath, source: '-', name: 'a:2', stdin: Readable.from([bytes.subarray(0, 7), bytes.subarray(7)]) });
  expect([fromFile, fromPipe]).toEqual(['sha256:1 a:1\n', 'sha256:1 a:2\n']);
  expect(await readdir(admin.stagingDir)).toEqual([]);
});

test('berth image load names a directory, which the daemon reads itself', async () => {
  const asked: string[] = [];
  await using admin = await setUp(async (path) => {
    asked.push(path);
    return [];
  });
  await loadImage({ socketPath: admin.socketPath, source: admin.dir });
  expect(asked).toEqual([admin.dir]);
});

test('berth image load rejects with what the daemon found wrong, and leaves no copy', async () => {
  await using admin = await setUp(async () => {
    throw new CriError('invalidArgument', 'archive: no manifest');
  });
  await expect(loadImage({ socketPath: admin.socketPath, source: '-', stdin: Readable.from(['x']) })).rejects.toThrow('archive: no manifest');
  expect(await readdir(admin.stagingDir)).toEqual([]);
});

test('berth image load says which socket nobody listens on', async () => {
  await expect(loadImage({ socketPath: '/nonexistent/admin.sock', source: '-' })).rejects.toThrow('no daemon listens on /nonexistent/admin.sock');
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

test('serveAdmin() says what it has not, and by which method', async () => {
  await using admin = await setUp(async () => []);
  const ask = (method: 'GET' | 'POST', path: string) => askOnce(admin.socketPath, { method, path });
  await expect(ask('GET', '/nothing')).rejects.toThrow('/nothing: no such resource');
  await expect(ask('POST', '/images/pulls')).rejects.toThrow('POST /images/pulls: not allowed');
  await expect(ask('POST', '/images/remove')).rejects.toThrow('name: "" names no image');
  await expect(ask('POST', '/images/check?full=yes')).rejects.toThrow('full: "yes" is neither 0 nor 1');
});

test.each([
  ['', 'the request is not JSON'],
  ['{}', 'reference: undefined names no image'],
  ['{"reference":"a","username":1}', 'username: is not a string'],
  ['{"reference":"a","authFile":"x"}', 'authFile: "x" is not an absolute path'],
])('POST /images/pull refuses %s', async (body, message) => {
  await using admin = await setUp(async () => []);
  await expect(askOnce(admin.socketPath, { method: 'POST', path: '/images/pull', body })).rejects.toThrow(message);
});

test('askDaemon() says that the daemon ended amid its answer', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-admin-'));
  const socketPath = join(dir.path, 'admin.sock');
  const server = createServer((_request, response) => response.write('{"progress":{}}\n', () => response.destroy()));
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  await expect(askOnce(socketPath, { method: 'POST', path: '/images/pull' })).rejects.toThrow(/aborted|ended before it had answered/);
  await new Promise((resolve) => server.close(resolve));
});

test('serveAdmin() is for its owner alone, replaces a stale socket and no other, and takes it away', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-admin-'));
  const path = join(dir.path, 'admin.sock');
  const gone = createServer();
  await new Promise<void>((resolve) => gone.listen(`${path}.was`, resolve));
  await rename(`${path}.was`, path);
  await new Promise((resolve) => gone.close(resolve));
  {
    await using _admin = await serveAdmin({ path, routes: [], log: silentLog });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await expect(serveAdmin({ path, routes: [], log: silentLog })).rejects.toThrow('another process answers there');
  }
  expect(await readdir(dir.path)).toEqual([]);
});
