import { mkdtempDisposable, readFile, rename, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { expect, test } from 'vitest';
import { run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { serveStreams } from '../../../../server/stream/server.ts';
import { SpdyClient } from '../../../fakes/spdy-client.ts';
import { until } from '../../../support/wait.ts';

const limits = { address: '127.0.0.1', port: 0, log: silentLog, idleTimeoutMs: 60_000, creationTimeoutMs: 30_000 };

interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** A certificate that signs itself, good for 127.0.0.1; its files are CN.crt and CN.key. */
async function certificate(directory: string, name: string): Promise<Certificate> {
  const [cert, key] = [join(directory, `${name}.crt`), join(directory, `${name}.key`)];
  const subject = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2'];
  const args = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', key, '-out', cert, ...subject];
  await run('openssl', args, { signal: AbortSignal.timeout(30_000) });
  return { cert, key };
}

/** The name in the certificate of the server, or why it would not talk. */
function nameOf(url: string, options: ConnectionOptions = {}): Promise<string> {
  return new Promise((resolve) => {
    const socket: TLSSocket = connectTls({ host: '127.0.0.1', port: Number(new URL(url).port), rejectUnauthorized: false, ...options }, () => {
      const { CN } = socket.getPeerCertificate().subject;
      // With TLS 1.3 a client learns only by reading that its certificate is refused.
      socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
      socket.once('data', () => {
        socket.destroy();
        resolve(String(CN));
      });
    });
    socket.once('error', (err: NodeJS.ErrnoException) => resolve(err.code ?? err.message));
    socket.once('close', () => resolve('closed'));
  });
}

test('a session by TLS, for clients with a certificate that the CA has signed', async () => {
  await using directory = await mkdtempDisposable(join(tmpdir(), 'berth-tls-'));
  const [own, client, stranger] = await Promise.all(['server', 'client', 'stranger'].map((name) => certificate(directory.path, name)));
  if (own === undefined || client === undefined || stranger === undefined) throw new Error('no certificates');
  const tls = { certFile: own.cert, keyFile: own.key, caFile: client.cert, minVersion: 'TLSv1.3' } as const;
  await using server = await serveStreams({ ...limits, tls });
  expect(server.baseUrl).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/);
  const read = async ({ cert, key }: Certificate) => ({ cert: await readFile(cert), key: await readFile(key) });
  const url = server.exec({ stdin: false, stdout: true, stderr: false, tty: false }, async ({ stdout }) => {
    stdout?.write('by TLS');
    return 0;
  });
  expect(await nameOf(url)).toMatch(/^(ERR_SSL|ECONNRESET|closed)/);
  expect(await nameOf(url, await read(stranger))).toMatch(/^(ERR_SSL|ECONNRESET|closed)/);
  expect(await nameOf(url, { ...(await read(client)), maxVersion: 'TLSv1.2' })).toMatch(/^(ERR_SSL|ECONNRESET|closed)/);

  const session = await SpdyClient.connect(url, { protocols: ['v4.channel.k8s.io'], tls: { ...(await read(client)), rejectUnauthorized: false } });
  await session.open({ streamType: 'error' });
  expect(await (await session.open({ streamType: 'stdout' })).text()).toBe('by TLS');
  await session.closed;
});

test('a renewed certificate is taken without a restart, and half a renewal is not', async () => {
  await using directory = await mkdtempDisposable(join(tmpdir(), 'berth-tls-'));
  const [used, next] = await Promise.all(['used', 'next'].map((name) => certificate(directory.path, name)));
  if (used === undefined || next === undefined) throw new Error('no certificates');
  const warnings: string[] = [];
  const log = { ...silentLog, info: () => {}, warn: (_fields: unknown, message: string) => warnings.push(message) } as unknown as typeof silentLog;
  await using server = await serveStreams({
    ...limits,
    log,
    tls: { certFile: used.cert, keyFile: used.key, caFile: '', minVersion: 'TLSv1.2' },
    tlsLookMs: 50,
  });
  expect(await nameOf(server.baseUrl)).toBe('used');
  await rename(next.cert, used.cert);
  await until('the warning', () => warnings.includes('Could not reload TLS certificate'));
  expect(await nameOf(server.baseUrl)).toBe('used');
  await rename(next.key, used.key);
  await until('the new certificate', async () => (await nameOf(server.baseUrl)) === 'next');
});

test.each([
  ['is not there', undefined, /stream\.crt cannot be read: Error: ENOENT/],
  ['is no certificate', 'nonsense', /stream\.crt and .*stream\.key cannot be used/],
])('a certificate that %s is named at the start', async (_what, content, message) => {
  await using directory = await mkdtempDisposable(join(tmpdir(), 'berth-tls-'));
  const [certFile, keyFile] = [join(directory.path, 'stream.crt'), join(directory.path, 'stream.key')];
  await writeFile(keyFile, 'nonsense');
  if (content !== undefined) await writeFile(certFile, content);
  const tls = { certFile, keyFile, caFile: '', minVersion: 'TLSv1.2' } as const;
  await expect(serveStreams({ ...limits, tls })).rejects.toMatchObject({ kind: 'failedPrecondition', message: expect.stringMatching(/streaming: /) });
  await serveStreams({ ...limits, tls }).catch((err: unknown) => expect(`${(err as Error).message}: ${String((err as Error).cause)}`).toMatch(message));
});
