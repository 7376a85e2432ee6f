import { mkdtempDisposable, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Gauge } from 'prom-client';
import { expect, test } from 'vitest';
import { isErrno } from '#base/errors.ts';
import { silentLog } from '#base/log.ts';
import { createMetrics } from '../../../../server/metrics/metrics.ts';
import { serveMetrics } from '../../../../server/metrics/server.ts';

interface Answer {
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly text: string;
}

function ask(where: { port: number } | { socketPath: string }, path: string, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', ...where, path, method, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => resolve({ status: response.statusCode, type: response.headers['content-type'], text: Buffer.concat(chunks).toString() }));
      response.on('error', reject);
    });
    asked.on('error', reject);
    asked.end();
  });
}

async function serving({ socket = '' } = {}) {
  const stack = new AsyncDisposableStack();
  const metrics = stack.use(createMetrics({ version: '1' }));
  const server = stack.use(
    await serveMetrics({
      registry: metrics.registry,
      host: '127.0.0.1',
      port: 0,
      socket,
      resources: { '/images/pulls': () => ({ pulls: [] }) },
      log: silentLog,
    }),
  );
  return { metrics, server, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

test('serveMetrics() answers /metrics, /healthz, what else it is given, and nothing else', async () => {
  await using world = await serving();
  const { server } = world;
  const { port } = server;
  expect(server.address).toBe(`127.0.0.1:${port}`);
  const metrics = await ask(server, '/metrics?x=1');
  expect(metrics).toMatchObject({ status: 200, type: expect.stringContaining('text/plain; version=0.0.4') });
  expect(metrics.text).toContain('# TYPE berth_rpc_duration_seconds histogram');
  expect(await ask({ port }, '/metrics', 'HEAD')).toMatchObject({ status: 200, text: '' });
  expect(await ask({ port }, '/healthz')).toMatchObject({ status: 200, text: 'ok\n' });
  expect(await ask({ port }, '/images/pulls')).toMatchObject({ status: 200, type: 'application/json', text: '{"pulls":[]}\n' });
  expect(await ask({ port }, '/toString')).toMatchObject({ status: 404 });
  expect(await ask({ port }, '/')).toMatchObject({ status: 404 });
  expect(await ask({ port }, '/metrics/..')).toMatchObject({ status: 404 });
  expect(await ask({ port }, '/metrics', 'POST')).toMatchObject({ status: 405 });
});

test('serveMetrics() answers 500 and goes on when a metric cannot be collected', async () => {
  await using world = await serving();
  const broken = new Gauge({
    name: 'broken',
    help: 'x',
    registers: [world.metrics.registry],
    collect() {
      throw new Error('no');
    },
  });
  expect(await ask(world.server, '/metrics')).toMatchObject({ status: 500 });
  world.metrics.registry.removeSingleMetric('broken');
  expect(broken).toBeDefined();
  expect(await ask(world.server, '/metrics')).toMatchObject({ status: 200 });
});

test('serveMetrics() serves a unix socket for its owner and group, and removes it in the end', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-metrics-'));
  const socketPath = join(dir.path, 'metrics.sock');
  const mask = process.umask();
  {
    await using _world = await serving({ socket: socketPath });
    expect((await stat(socketPath)).mode & 0o777).toBe(0o660);
    expect(process.umask()).toBe(mask);
    expect(await ask({ socketPath }, '/metrics')).toMatchObject({ status: 200 });
  }
  await expect(stat(socketPath)).rejects.toSatisfy((err) => isErrno(err, 'ENOENT'));
});

test('serveMetrics() replaces a socket that nobody listens on, and refuses one that somebody does', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-metrics-'));
  const socketPath = join(dir.path, 'metrics.sock');
  await leaveStale(socketPath);
  await using _world = await serving({ socket: socketPath });
  expect(await ask({ socketPath }, '/healthz')).toMatchObject({ status: 200 });
  await expect(serving({ socket: socketPath })).rejects.toThrow('another process answers there');
  expect(await ask({ socketPath }, '/healthz')).toMatchObject({ status: 200 });
  const file = join(dir.path, 'file');
  await writeFile(file, 'keep');
  await expect(serving({ socket: file })).rejects.toThrow('something that is no socket is there');
});

/** A socket file whose listener is gone, as after SIGKILL: closing the server would have removed it. */
async function leaveStale(path: string): Promise<void> {
  const { spawn } = await import('node:child_process');
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  const child = spawn(process.execPath, ['-e', script], { stdio: 'ignore' });
  await new Promise((resolve) => child.once('exit', resolve));
  expect((await stat(path)).isSocket()).toBe(true);
}

test('serveMetrics() says which address is in use, and leaves nothing open', async () => {
  await using taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  const { port } = taken.address() as { port: number };
  using metrics = createMetrics({ version: '1' });
  const options = { registry: metrics.registry, host: '127.0.0.1', port, socket: '', resources: {}, log: silentLog };
  await expect(serveMetrics(options)).rejects.toThrow(
    expect.objectContaining({ kind: 'failedPrecondition', message: expect.stringMatching(`^serve metrics on 127.0.0.1:${port}: .*EADDRINUSE`) }),
  );
});

test('disposing does not wait for a client that holds its connection', async () => {
  const world = await serving();
  const client = connect(world.server.port, '127.0.0.1');
  const closed = new Promise((resolve) => client.once('close', resolve));
  await new Promise((resolve) => client.once('connect', resolve));
  client.on('error', () => {});
  client.write('GET /metrics HTTP/1.1\r\n');
  await ask(world.server, '/healthz');
  await world[Symbol.asyncDispose]();
  await closed;
});
