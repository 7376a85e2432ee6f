import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type CallOptions as ClientOptions,
  type ClientReadableStream,
  credentials,
  makeGenericClientConstructor,
  Server,
  type ServiceError,
} from '@grpc/grpc-js';
import { createLog, type Log } from '#base/log.ts';
import type { Init, RpcName, Rpcs } from '../../proto/cri.ts';
import { loadCri } from '../../proto/load.ts';
import { listen } from '../../server/listener.ts';
import { buildServices, type Handlers, rpcs, type Services } from '../../server/service.ts';

export interface Api extends AsyncDisposable {
  readonly path: string;
  readonly server: Server;
  readonly listener: AsyncDisposable;
  readonly services: Services;
  /** What was logged, parsed. */
  readonly lines: readonly Record<string, unknown>[];
  /** What was observed, as `rpc code`. */
  readonly observed: readonly string[];
  call<Name extends RpcName>(rpc: Name, request?: Init<Rpcs[Name]['request']>, options?: ClientOptions): Promise<Rpcs[Name]['response']>;
  /** A call with the handle that cancels it. */
  start<Name extends RpcName>(rpc: Name, request?: Init<Rpcs[Name]['request']>): { cancel(): void; readonly answer: Promise<Rpcs[Name]['response']> };
  stream<Name extends RpcName>(rpc: Name, request?: Init<Rpcs[Name]['request']>, options?: ClientOptions): ClientReadableStream<Rpcs[Name]['response']>;
}

type UnaryMethod = (request: unknown, options: ClientOptions, done: (err: ServiceError | null, response: unknown) => void) => { cancel(): void };
type StreamMethod = (request: unknown, options: ClientOptions) => ClientReadableStream<unknown>;

/** A real server on a socket of its own with these handlers, and a grpc-js client of it. */
export async function serveApi(handlers: Handlers): Promise<Api> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await mkdtempDisposable(join(tmpdir(), 'berth-api-')));
  const path = join(dir.path, 'berth.sock');
  const lines: Record<string, unknown>[] = [];
  const observed: string[] = [];
  const log: Log = createLog('debug', { write: (line) => void lines.push(JSON.parse(line)) });
  const server = new Server();
  stack.defer(() => server.forceShutdown());
  const services = buildServices(handlers, { log, observe: (rpc, _seconds, code) => void observed.push(`${rpc} ${code}`) });
  services.register(server);
  const listener = stack.use(await listen(server, path, log));

  const definitions = loadCri();
  const clients = { RuntimeService: connect('RuntimeService'), ImageService: connect('ImageService') };
  function connect(service: 'RuntimeService' | 'ImageService'): Record<string, UnaryMethod | StreamMethod> {
    const Client = makeGenericClientConstructor(definitions[service], service);
    const client = new Client(`unix:${path}`, credentials.createInsecure());
    stack.defer(() => client.close());
    return client as unknown as Record<string, UnaryMethod | StreamMethod>;
  }
  function begin(rpc: RpcName, request: unknown, options: ClientOptions): { cancel(): void; answer: Promise<unknown> } {
    const { promise: answer, resolve, reject } = Promise.withResolvers<unknown>();
    const client = clients[rpcs[rpc].service];
    const call = (client[rpc] as UnaryMethod).call(client, request, options, (err, response) => (err === null ? resolve(response) : reject(err)));
    return { cancel: () => call.cancel(), answer };
  }
  const owned = stack.move();
  return {
    path,
    server,
    listener,
    services,
    lines,
    observed,
    call: (rpc, request, options = {}) => begin(rpc, request ?? {}, options).answer as never,
    start: (rpc, request) => begin(rpc, request ?? {}, {}) as never,
    stream(rpc, request, options = {}) {
      const client = clients[rpcs[rpc].service];
      return (client[rpc] as StreamMethod).call(client, request ?? {}, options) as never;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
