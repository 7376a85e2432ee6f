import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { CriError } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { MNT, tcpSocketIn, umount } from '#base/sys.ts';
import { serveStreams } from '../../../../server/stream/server.ts';
import { SpdyClient } from '../../../fakes/spdy-client.ts';
import { mark } from '../../../support/mark.ts';

const sh = (program: string, ...args: readonly string[]) => run(program, args, { signal: AbortSignal.timeout(20_000) });

test('a client whose machine went away without a word is found gone, and its session ended', async () => {
  const name = `${mark()}ho`;
  await using undo = new AsyncDisposableStack();
  const directory = undo.use(await mkdtempDisposable(join(tmpdir(), `${mark()}-`)));
  const netns = join(directory.path, 'net');
  writeFileSync(netns, '');
  await sh('unshare', `--net=${netns}`, 'true');
  undo.defer(() => umount(netns, MNT.DETACH));
  const inside = (...args: readonly string[]) => sh('nsenter', `--net=${netns}`, 'ip', ...args);
  await inside('link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', name, 'netns', String(process.pid));
  undo.defer(async () => void (await sh('ip', 'link', 'del', name).catch(() => {})));
  await sh('ip', 'addr', 'add', '198.51.100.1/30', 'dev', name);
  await sh('ip', 'link', 'set', name, 'up');
  await inside('addr', 'add', '198.51.100.2/30', 'dev', 'eth0');
  await inside('link', 'set', 'eth0', 'up');

  await using server = await serveStreams({
    address: '198.51.100.1',
    port: 0,
    log: silentLog,
    idleTimeoutMs: 600_000,
    creationTimeoutMs: 30_000,
    keepAliveMs: 1_000,
  });
  const heard = Promise.withResolvers<unknown>();
  const reason = Promise.withResolvers<CriError>();
  const url = new URL(
    server.exec({ stdin: true, stdout: true, stderr: false, tty: false }, async ({ stdin, signal }) => {
      stdin?.once('data', heard.resolve);
      await once(signal, 'abort');
      reason.resolve(signal.reason);
      throw signal.reason;
    }),
  );
  const socket = new Socket({ fd: tcpSocketIn(netns, 4) });
  undo.defer(() => void socket.destroy());
  socket.connect({ host: url.hostname, port: Number(url.port) });
  socket.write(`POST ${url.pathname} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n`);
  const [answer] = (await once(socket, 'data')) as [Buffer];
  expect(answer.toString('latin1')).toMatch(/^HTTP\/1\.1 101 /);
  const client = new SpdyClient(socket, Buffer.alloc(0), 'v4.channel.k8s.io');
  const [, stdin] = [await client.open({ streamType: 'error' }), await client.open({ streamType: 'stdin' }), await client.open({ streamType: 'stdout' })];
  await Promise.all([...client.streams.values()].map(({ accepted }) => accepted));
  // This acknowledges all that the server has sent: what is on its way when a machine goes is tried for a quarter of an hour.
  await stdin.write('x');
  await heard.promise;

  // From now on nothing that it says comes out, not even that it knows nothing.
  await inside('route', 'add', 'blackhole', '198.51.100.1/32');
  expect(await reason.promise).toMatchObject({ kind: 'cancelled' });
});
