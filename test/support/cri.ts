import { type Client, credentials, makeClientConstructor, type ServiceError } from '@grpc/grpc-js';
import type { Init, RpcName, Rpcs } from '../../proto/cri.ts';
import { loadCri } from '../../proto/load.ts';

type UnaryName = { [Name in RpcName]: Rpcs[Name]['stream'] extends false ? Name : never }[RpcName];

export interface CallOptions {
  /** What the client tells the server and waits for itself, as a Go client does. Default 120,000. */
  readonly deadlineMs?: number;
  /** The client goes away: the call is cancelled. */
  readonly signal?: AbortSignal;
}

/** Every unary RPC of both services as a method that returns a promise. A failure is grpc-js's `ServiceError`. */
export type Cri = {
  readonly [Name in UnaryName]: (request?: Init<Rpcs[Name]['request']>, options?: CallOptions) => Promise<Rpcs[Name]['response']>;
} & { readonly close: () => void };

type Method = (request: unknown, options: { deadline: number }, callback: (err: ServiceError | null, response: unknown) => void) => { cancel: () => void };

/** A client of the CRI on a unix socket. It connects with the first call. */
export function connectCri(socket: string): Cri {
  const { RuntimeService, ImageService } = loadCri();
  const clients: Client[] = [];
  const methods: Record<string, unknown> = {};
  for (const definition of [RuntimeService, ImageService]) {
    const Service = makeClientConstructor(definition, 'cri');
    const client = new Service(`unix://${socket}`, credentials.createInsecure(), {
      'grpc.default_authority': 'localhost',
      'grpc.max_receive_message_length': 64 * 1024 ** 2,
      'grpc.max_send_message_length': 64 * 1024 ** 2,
      'grpc.initial_reconnect_backoff_ms': 20,
      'grpc.max_reconnect_backoff_ms': 200,
      'grpc.use_local_subchannel_pool': 1,
    });
    clients.push(client);
    for (const name of Object.keys(definition)) methods[name] = unary(client, (client as unknown as Record<string, Method>)[name] as Method);
  }
  methods.close = () => {
    for (const client of clients) client.close();
  };
  return methods as Cri;
}

function unary(client: Client, method: Method) {
  return (request: unknown = {}, { deadlineMs = 120_000, signal }: CallOptions = {}): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const call = method.call(client, request, { deadline: Date.now() + deadlineMs }, (err, response) => {
        signal?.removeEventListener('abort', cancel);
        if (err !== null) reject(err);
        else resolve(response);
      });
      const cancel = (): void => call.cancel();
      signal?.addEventListener('abort', cancel, { once: true });
    });
}
