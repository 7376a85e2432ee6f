import { Agent as HttpAgent, type IncomingMessage, request as requestHttp } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps } from 'node:https';
import { JobError } from './jobs.ts';

/** Time for name, connection and TLS: a host that is down must not use up the time its mirrors need. */
const CONNECT_TIMEOUT_MS = 15_000;
const MAX_DISCARDED_BYTES = 64 * 1024;

export interface HttpRequest {
  readonly method?: 'GET' | 'POST';
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Whether the certificate may be anybody's. */
  readonly insecure: boolean;
  /** Without a byte for so long the request fails. */
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

/** Keeps connections, and goes through the proxies that its environment names (HTTPS_PROXY, HTTP_PROXY, NO_PROXY). */
export class HttpClient {
  readonly #http: HttpAgent;
  readonly #https: HttpsAgent;
  readonly #unverified: HttpsAgent;

  constructor(proxyEnv: NodeJS.ProcessEnv) {
    this.#http = new HttpAgent({ keepAlive: true, proxyEnv });
    this.#https = new HttpsAgent({ keepAlive: true, proxyEnv });
    this.#unverified = new HttpsAgent({ keepAlive: true, proxyEnv, rejectUnauthorized: false });
  }

  /**
   * One request, no redirect followed. The body is the caller's to read or destroy.
   * @throws {JobError} `unreachable` naming the URL without its query, which may hold a signature.
   */
  send(url: URL, { method = 'GET', headers, body, insecure, idleMs, signal }: HttpRequest): Promise<IncomingMessage> {
    const secure = url.protocol === 'https:';
    const agent = secure ? (insecure ? this.#unverified : this.#https) : this.#http;
    return new Promise((resolve, reject) => {
      const request = (secure ? requestHttps : requestHttp)(url, { method, headers: { ...headers, 'user-agent': 'berth' }, agent, signal });
      const timer = setTimeout(
        () => request.destroy(new JobError('unreachable', `no connection within ${CONNECT_TIMEOUT_MS / 1000} s`)),
        Math.min(CONNECT_TIMEOUT_MS, idleMs),
      );
      request.on('socket', (socket) => {
        if (request.reusedSocket) clearTimeout(timer);
        else socket.once(secure ? 'secureConnect' : 'connect', () => clearTimeout(timer));
      });
      let received: IncomingMessage | undefined;
      request.setTimeout(idleMs, () => (received ?? request).destroy(stalled(idleMs)));
      request.on('error', (err) => {
        clearTimeout(timer);
        reject(signal.aborted ? err : unreachable(url, err));
      });
      request.on('response', (response) => {
        clearTimeout(timer);
        received = response;
        resolve(response);
      });
      request.end(body);
    });
  }
}

function stalled(idleMs: number): JobError {
  return new JobError('unreachable', `no progress: not a byte was received for ${idleMs / 1000} s`);
}

/** A connection's failure, with the URL it was for; its query is left out. */
export function unreachable(url: URL, err: unknown): JobError {
  const reason = err instanceof AggregateError && err.message === '' ? err.errors.map((one: unknown) => text(one)).join(', ') : text(err);
  return new JobError('unreachable', `${url.origin}${url.pathname}: ${reason}`, { cause: err instanceof Error && 'code' in err ? err : undefined });
}

function text(err: unknown): string {
  return err instanceof Error ? err.message || String('code' in err ? err.code : err.name) : String(err);
}

/** The whole body as bytes. @throws {JobError} `refused` when it is longer than `limit` bytes. */
export async function readBody(response: IncomingMessage, limit: number, what: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limit) {
      response.destroy();
      throw new JobError('refused', `${what} is larger than ${limit} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Reads a body that is of no interest, so that the connection can be used again; a long one ends it. */
export function discardBody(response: IncomingMessage): void {
  let size = 0;
  response.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size > MAX_DISCARDED_BYTES) response.destroy();
  });
  response.on('error', () => {}); // nobody waits for it
}
