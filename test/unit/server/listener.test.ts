import { once } from 'node:events';
import { lstat, mkdir, mkdtempDisposable, readdir, readFile, rename, symlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:http2';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { silentLog } from '#base/log.ts';
import { listen, shutDown } from '../../../server/listener.ts';
import { serveApi } from '../../fakes/api.ts';

const tempDir = () => mkdtempDisposable(join(tmpdir(), 'berth-listen-'));

/** The mode bits of what is there. */
const modeOf = async (path: string): Promise<number> => (await lstat(path)).mode & 0o777;

/** Leaves a socket behind that nobody answers on, as a killed daemon does. */
async function leaveSocket(path: string): Promise<void> {
  const gone = createServer();
  await once(gone.listen(`${path}.was`), 'listening');
  await rename(`${path}.was`, path);
  await new Promise((resolve) => gone.close(resolve));
}

test('listen() makes directory and socket with their modes, whatever the umask, and takes the socket away', async () => {
  await using dir = await tempDir();
  const path = join(dir.path, 'run', 'berth', 'berth.sock');
  const umask = process.umask(0o077);
  const listener = await listen(new Server(), path, silentLog).finally(() => process.umask(umask));
  expect(await modeOf(join(dir.path, 'run', 'berth'))).toBe(0o755);
  expect(await modeOf(path)).toBe(0o660);
  expect(await readdir(join(dir.path, 'run', 'berth'))).toEqual(['berth.sock']);
  await listener[Symbol.asyncDispose]();
  expect(await readdir(join(dir.path, 'run', 'berth'))).toEqual([]);
});

test('listen() leaves the mode of a directory that is there', async () => {
  await using dir = await tempDir();
  await using _ = await listen(new Server(), join(dir.path, 'berth.sock'), silentLog);
  expect(await modeOf(dir.path)).toBe(0o700);
});

test('listen() replaces a socket that nobody answers on', async () => {
  await using dir = await tempDir();
  const path = join(dir.path, 'berth.sock');
  await leaveSocket(path);
  await using _ = await listen(new Server(), path, silentLog);
  const client = createConnection(path);
  await once(client, 'connect');
  client.destroy();
});

test('listen() refuses a socket that somebody answers on, and leaves it', async () => {
  await using api = await serveApi({ Version: async () => ({ version: '0.1.0' }) });
  await expect(listen(new Server(), api.path, silentLog)).rejects.toMatchObject({
    kind: 'failedPrecondition',
    message: `listen on ${api.path}: another process answers there`,
  });
  expect(await api.call('Version')).toMatchObject({ version: '0.1.0' });
});

test.each([
  ['a file', (path: string) => writeFile(path, 'precious')],
  ['a directory', (path: string) => mkdir(path)],
  ['a symbolic link', (path: string) => symlink('/dev/null', path)],
])('listen() refuses %s, and leaves it', async (_name, make) => {
  await using dir = await tempDir();
  const path = join(dir.path, 'berth.sock');
  await make(path);
  const before = await lstat(path);
  await expect(listen(new Server(), path, silentLog)).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringContaining(path) });
  expect((await lstat(path)).ino).toBe(before.ino);
  expect(await readdir(dir.path)).toEqual(['berth.sock']);
});

test('listen() refuses a path that is too long for a socket', async () => {
  await expect(listen(new Server(), `/tmp/${'x'.repeat(120)}`, silentLog)).rejects.toMatchObject({ kind: 'invalidArgument' });
});

test('listen() leaves what came in the place of its socket', async () => {
  await using dir = await tempDir();
  const path = join(dir.path, 'berth.sock');
  const first = await listen(new Server(), path, silentLog);
  await rename(path, join(dir.path, 'old'));
  await writeFile(path, 'of somebody else');
  await first[Symbol.asyncDispose]();
  expect(await readFile(path, 'utf8')).toBe('of somebody else');
});

test('shutDown() lets running calls finish, tells clients to go, and takes no more', async () => {
  const begun = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  await using api = await serveApi({
    async StopContainer() {
      begun.resolve();
      await gate.promise;
      return {};
    },
  });
  const idle = connect('http://localhost', { createConnection: () => createConnection(api.path) });
  const goaway = once(idle, 'goaway');
  await once(idle.request({ ':path': '/nothing' }).resume(), 'close');
  const stopped = api.call('StopContainer');
  await begun.promise;

  await api.listener[Symbol.asyncDispose]();
  const ended = shutDown(api.server, api.services.drain, 60_000);
  await goaway;
  await expect(api.call('Version')).rejects.toMatchObject({ code: status.UNAVAILABLE });
  gate.resolve();
  expect(await stopped).toEqual({});
  expect(await ended).toBe(true);
  expect(idle.closed).toBe(true);
});

test('listen() lets go of clients that never asked for anything when it is disposed of', async () => {
  await using api = await serveApi({});
  const idle = createConnection(api.path);
  await once(idle, 'data');
  const closed = once(idle, 'close');
  await api.listener[Symbol.asyncDispose]();
  await closed;
});

test('shutDown() cuts off what does not finish in time', async () => {
  const begun = Promise.withResolvers<void>();
  const reason = Promise.withResolvers<unknown>();
  await using api = await serveApi({
    StopContainer(_request, { signal }) {
      begun.resolve();
      signal.addEventListener('abort', () => reason.resolve(signal.reason));
      return new Promise(() => {});
    },
  });
  const stopped = api.call('StopContainer');
  stopped.catch(() => {});
  await begun.promise;
  await api.listener[Symbol.asyncDispose]();
  expect(await shutDown(api.server, api.services.drain, 20)).toBe(false);
  await expect(stopped).rejects.toThrow();
  expect(await reason.promise).toMatchObject({ kind: 'cancelled' });
});

test.each(['9999H', '525600M', '31536000S'])('listen() gives calls as much time as a timer can hold for a grpc-timeout of %s', async (timeout) => {
  const left: (number | undefined)[] = [];
  await using api = await serveApi({
    async StopContainer(_request, { deadline }) {
      await new Promise((resolve) => setTimeout(resolve, 20)); // grpc-js alone ends the call after 1 ms
      left.push((deadline ?? 0) - Date.now());
      return {};
    },
  });
  const session = connect('http://localhost', { createConnection: () => createConnection(api.path) });
  const call = session.request({
    ':method': 'POST',
    ':path': '/runtime.v1.RuntimeService/StopContainer',
    'content-type': 'application/grpc',
    te: 'trailers',
    'grpc-timeout': timeout,
  });
  call.end(Buffer.alloc(5));
  call.resume();
  const [trailers] = await once(call, 'trailers');
  session.close();
  expect(trailers['grpc-status']).toBe('0');
  expect(left[0]).toBeGreaterThan(2_147_000_000);
});
