import { createServer, request } from 'node:http';

/** A proxy in front of a registry that can hold its answers back, and knows what was asked for. */
export interface HoldingProxy extends AsyncDisposable {
  readonly address: string;
  /** From now on requests for these paths wait. */
  readonly hold: (paths: RegExp) => void;
  readonly release: () => void;
  /** Paths of the GET requests so far. */
  readonly requests: () => readonly string[];
}

export async function holdingProxy(upstream: string): Promise<HoldingProxy> {
  const [host = '', port = ''] = upstream.split(':');
  const seen: string[] = [];
  let held: RegExp | undefined;
  let freed = Promise.withResolvers<void>();
  const server = createServer((incoming, answer) => {
    void (async () => {
      if (incoming.method === 'GET') seen.push(incoming.url ?? '');
      if (held?.test(incoming.url ?? '') === true) await freed.promise;
      const onward = request({ host, port, method: incoming.method, path: incoming.url, headers: incoming.headers }, (response) => {
        answer.writeHead(response.statusCode ?? 502, response.headers);
        response.pipe(answer);
      });
      onward.on('error', () => answer.destroy());
      incoming.pipe(onward);
    })();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    address: `127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}`,
    hold: (paths) => {
      held = paths;
      freed = Promise.withResolvers();
    },
    release: () => {
      held = undefined;
      freed.resolve();
    },
    requests: () => seen,
    [Symbol.asyncDispose]: async () => {
      freed.resolve();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
