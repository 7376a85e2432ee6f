import { afterEach, expect } from 'vitest';
import { silentLog } from '#base/log.ts';
import { type StreamServer, type StreamServerOptions, serveStreams } from '../../../../server/stream/server.ts';
import type { SessionHandler } from '../../../../server/stream/session.ts';
import { type ClientStream, SpdyClient } from '../../../fakes/spdy-client.ts';

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one[Symbol.asyncDispose]();
});

/** A server that ends with the test. */
export async function serve(options: Partial<StreamServerOptions> = {}): Promise<StreamServer> {
  const server = await serveStreams({ address: '127.0.0.1', port: 0, log: silentLog, idleTimeoutMs: 60_000, creationTimeoutMs: 30_000, ...options });
  open.push(server);
  return server;
}

export const ALL = { stdin: true, stdout: true, stderr: true, tty: false };
export const PIPE = { stdin: true, stdout: true, stderr: false, tty: false };

/** Sends stdin back, says so on stderr, and ends with 3. */
export const echo: SessionHandler = async ({ stdin, stdout, stderr }) => {
  for await (const piece of stdin ?? []) stdout?.write(piece);
  stderr?.write('echoed');
  return 3;
};

interface Streams {
  readonly client: SpdyClient;
  readonly error: ClientStream;
  readonly stdin: ClientStream;
  readonly stdout: ClientStream;
  readonly stderr: ClientStream;
}

/** Connects and opens streams of these types. */
export async function bySpdy(url: string, names: readonly string[], protocol = 'v4.channel.k8s.io'): Promise<Streams> {
  const client = await SpdyClient.connect(url, { protocols: [protocol] });
  const streams: Record<string, unknown> = { client };
  for (const name of names) streams[name] = await client.open({ streamType: name });
  return streams as unknown as Streams;
}

/** The status of a command that has ended with 3. */
export const FAILED_3 = expect.objectContaining({ status: 'Failure', reason: 'NonZeroExitCode', details: { causes: [{ reason: 'ExitCode', message: '3' }] } });
