import { once } from 'node:events';
import { Socket } from 'node:net';
import { expect, test } from 'vitest';
import type { CriError } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { tcpSocketIn } from '#base/sys.ts';
import { serveStreams } from '../../../../server/stream/server.ts';
import { SpdyClient } from '../../../fakes/spdy-client.ts';
import { mark } from '../../../support/mark.ts';

const ip = (...args: readonly string[]) => run('ip', args, { signal: AbortSignal.timeout(20_000) });

test('a client whose machine went away without a word is found gone, and its session ended', async () => {
  const name = `${mark()}ho`;
  await using undo = new AsyncDisposableStack();
  await ip('netns', 'add', name);
  undo.defer(async () => void (await ip('netns', 'del', name)));
  await ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
  undo.defer(async () => void (await ip('link', 'del', name).catch(() => {})));
  await ip('addr', 'add', '198.51.100.1/30', 'dev', name);
  await ip('link', 'set', name, 'up');
  await ip('-n', name, 'addr', 'add', '198.51.100.2/30', 'dev', 'eth0');
  await ip('-n', name, 'link', 'set', 'eth0', 'up');

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
  const socket = new Socket({ fd: tcpSocketIn(`/run/netns/${name}`, 4) });
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
  await ip('-n', name, 'route', 'add', 'blackhole', '198.51.100.1/32');
  expect(await reason.promise).toMatchObject({ kind: 'cancelled' });
});
