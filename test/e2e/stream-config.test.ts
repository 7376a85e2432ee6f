import { copyFileSync, readFileSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { expect, inject, test } from 'vitest';
import { SpdyClient } from '../fakes/spdy-client.ts';
import { Authority, type Pair } from '../support/certificates.ts';
import { startDaemon } from '../support/daemon.ts';
import { startPod } from '../support/pod.ts';
import { until } from '../support/wait.ts';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no address');
  return address.port;
}

test('sessions are served as the configuration says: port, TLS, client certificates, least version, renewal, timeouts', async () => {
  await using directory = await mkdtempDisposable(join(tmpdir(), 'berth-tls-'));
  const authority = await Authority.make(directory.path, 'authority');
  const [first, renewed, client] = [await authority.issue('first'), await authority.issue('renewed'), await authority.issue('client')];
  const own: Pair = { key: join(directory.path, 'own.key'), cert: join(directory.path, 'own.crt') };
  const install = ({ key, cert }: Pair): void => {
    copyFileSync(cert, own.cert);
    copyFileSync(key, own.key);
  };
  install(first);
  const port = await freePort();
  const api = {
    stream_port: port,
    stream_enable_tls: true,
    stream_tls_cert: own.cert,
    stream_tls_key: own.key,
    stream_tls_ca: authority.cert,
    tls_min_version: 'VersionTLS13',
    stream_idle_timeout: '2s',
    stream_creation_timeout: '1s',
  };
  await using daemon = await startDaemon({ handler: 'crun', registry: inject('registry'), config: { api } });
  const { containerId: container_id } = await startPod(daemon);
  const url = async () => (await daemon.cri.Exec({ container_id, cmd: ['cat'], stdin: true, stdout: true })).url;
  const ca = readFileSync(authority.cert);
  const certified = { ca, cert: readFileSync(client.cert), key: readFileSync(client.key) };
  const session = async (tls: Readonly<Record<string, unknown>>) => SpdyClient.connect(await url(), { protocols: ['v4.channel.k8s.io'], tls });
  const nameOf = ({ socket }: SpdyClient) => (socket as TLSSocket).getPeerCertificate().subject.CN;
  const refusals = async () => {
    await expect(session({ ca })).rejects.toThrow(/certificate required|ECONNRESET|socket hang up/);
    await expect(session({ ...certified, maxVersion: 'TLSv1.2' })).rejects.toThrow(/protocol version|ECONNRESET|socket hang up/);
  };

  expect(await url()).toMatch(new RegExp(`^https://127\\.0\\.0\\.1:${port}/exec/`));
  await refusals();

  const idle = await session(certified);
  expect(nameOf(idle)).toBe('first');
  const error = await idle.open({ streamType: 'error' });
  const stdin = await idle.open({ streamType: 'stdin' });
  const stdout = await idle.open({ streamType: 'stdout' });
  await stdin.write('by TLS');
  expect(await stdout.text()).toBe('by TLS'); // to its end, which is the timeout's
  expect(await error.text()).toContain('nothing was sent or received for 2 s');

  const lazy = await session(certified);
  expect(await (await lazy.open({ streamType: 'error' })).text()).toContain('the client did not open stdin, stdout within 1 s');

  install(renewed);
  await until('the renewed certificate', async () => {
    const later = await session(certified);
    const name = nameOf(later);
    later.destroy();
    return name === 'renewed';
  });
  await refusals();
});
