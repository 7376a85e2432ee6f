import { createServer, type IncomingMessage, request, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

/** A forward proxy that leads every name to one address, and knows what it was asked for. */
export class ForwardProxy implements AsyncDisposable {
  /** `CONNECT host:port` and `GET http://…`. */
  readonly requests: string[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;

  private constructor(upstream: string) {
    const [host = '', port = ''] = upstream.split(':');
    this.#server = createServer((incoming, answer) => {
      this.requests.push(`${incoming.method} ${incoming.url}`);
      const { pathname, search } = new URL(incoming.url ?? '/');
      const onward = request({ host, port, method: incoming.method, path: `${pathname}${search}`, headers: incoming.headers }, (response) => {
        answer.writeHead(response.statusCode ?? 502, response.headers);
        response.pipe(answer);
      });
      onward.on('error', () => answer.destroy());
      incoming.pipe(onward);
    });
    this.#server.on('connect', (incoming: IncomingMessage, client: Socket) => {
      this.requests.push(`CONNECT ${incoming.url}`);
      const onward = connect(Number(port), host, () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        onward.pipe(client).pipe(onward);
      });
      for (const socket of [client, onward]) {
        this.#sockets.add(socket);
        socket.on('error', () => {});
        socket.on('close', () => [client, onward].map((each) => each.destroy()));
      }
    });
  }

  static async start(upstream: string): Promise<ForwardProxy> {
    const proxy = new ForwardProxy(upstream);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
