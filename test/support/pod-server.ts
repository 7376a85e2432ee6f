import { createServer, type Server, type Socket } from 'node:net';
import { inNamespaces, tcpSocketIn } from '#base/sys.ts';

/** A server in a network namespace, run by the test itself. */
export interface PodServer extends AsyncDisposable {
  readonly port: number;
  /** Connections that are open. */
  readonly connections: ReadonlySet<Socket>;
  /** How many there have been. */
  readonly accepted: () => number;
}

/** `family` 6 listens on IPv6 alone, 4 on IPv4 alone. */
export async function listenInPod(netns: string, serve: (socket: Socket) => void, family: 4 | 6 = 4): Promise<PodServer> {
  const connections = new Set<Socket>();
  let accepted = 0;
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    accepted += 1;
    connections.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => connections.delete(socket));
    serve(socket);
  });
  const listening = new Promise<void>((resolve, reject) => {
    server.once('listening', resolve);
    server.once('error', reject);
  });
  // Without a host name both are made within the call; a socket that is not bound takes a free port of all addresses.
  if (family === 6) inNamespaces({ net: netns }, () => server.listen({ port: 0, ipv6Only: true }));
  else server.listen({ fd: tcpSocketIn(netns, 4) });
  await listening;
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no address');
  return {
    port: address.port,
    connections,
    accepted: () => accepted,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of connections) socket.destroy();
      }),
  };
}
