import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { lstat, mkdtempDisposable, readdir } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { bindSocket } from '#base/unix-socket.ts';

const options = { mode: 0o600, what: 'listen on' };

/** A process that listens and accepts nobody: it is stopped. */
async function listenStopped(path: string): Promise<ChildProcess> {
  const script = `require('node:net').createServer().listen({ path: ${JSON.stringify(path)}, backlog: 1 }, () => process.stdout.write('listening'))`;
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  return child;
}

/** Fills the backlog of a socket: as many clients as it takes. */
async function fill(path: string): Promise<Socket[]> {
  const clients: Socket[] = [];
  for (;;) {
    const client = connect(path);
    clients.push(client);
    const failed = await new Promise<boolean>((resolve) => {
      client.once('connect', () => resolve(false));
      client.once('error', () => resolve(true));
    });
    if (failed) return clients;
  }
}

test('bindSocket() refuses a socket whose owner is too busy to answer, and leaves it', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-socket-'));
  const path = join(dir.path, 'busy.sock');
  const child = await listenStopped(path);
  const clients = await fill(path);
  try {
    const { ino } = await lstat(path);
    await expect(bindSocket(createServer(), path, options)).rejects.toMatchObject({
      kind: 'failedPrecondition',
      message: `listen on ${path}: another process answers there`,
    });
    expect((await lstat(path)).ino).toBe(ino);
  } finally {
    for (const client of clients) client.destroy();
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

test('bindSocket() says why there can be no socket, and leaves nothing', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-socket-'));
  const path = join(dir.path, 'missing/own.sock');
  await expect(bindSocket(createServer(), path, options)).rejects.toMatchObject({
    kind: 'failedPrecondition',
    message: expect.stringMatching(`^listen on ${path}: ENOENT`),
  });
  expect(await readdir(dir.path)).toEqual([]);
});
