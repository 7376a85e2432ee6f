import { createServer, request } from 'node:http';
import { Transform } from 'node:stream';
import { sleep } from '#base/abort.ts';

/** A GET that came through. */
export interface Counted {
  readonly path: string;
  readonly range: string | undefined;
  /** Of its body, that were passed on so far. */
  bytes: number;
}

/** A slow line to a registry, which knows what went over it. */
export interface CountingProxy extends AsyncDisposable {
  readonly address: string;
  readonly requests: Counted[];
  /** Of each answer; may be changed at any time. */
  bytesPerSecond: number;
}

export async function countingProxy(upstream: string, bytesPerSecond: number): Promise<CountingProxy> {
  const [host = '', port = ''] = upstream.split(':');
  const requests: Counted[] = [];
  const server = createServer((incoming, answer) => {
    const counted: Counted = { path: incoming.url ?? '', range: incoming.headers.range, bytes: 0 };
    if (incoming.method === 'GET') requests.push(counted);
    const slow = new Transform({
      transform: (chunk: Buffer, _encoding, done) => {
        counted.bytes += chunk.length;
        void sleep((chunk.length / proxy.bytesPerSecond) * 1_000).then(() => done(null, chunk));
      },
    });
    const onward = request({ host, port, method: incoming.method, path: incoming.url, headers: incoming.headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(slow).pipe(answer);
      answer.on('close', () => response.destroy());
    });
    onward.on('error', () => answer.destroy());
    incoming.pipe(onward);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const proxy: CountingProxy = {
    bytesPerSecond,
    address: `127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}`,
    requests,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}
