import { Agent as HttpAgent, type IncomingMessage, request as requestHttp } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps } from 'node:https';
import type { Socket } from 'node:net';
import { createSecureContext, getCACertificates, TLSSocket } from 'node:tls';
import { describeError, isErrno } from '#base/errors.ts';
import { type HostCertificates, loadHostCertificates } from './certs.ts';
import { JobError } from './jobs.ts';
import { Proxies } from './proxy.ts';
import { registryHost } from './reference.ts';
import { PassingError } from './retry.ts';

/** Time for name, connection and TLS: a host that is down must not use up the time its mirrors need. */
const CONNECT_TIMEOUT_MS = 15_000;
const MAX_DISCARDED_BYTES = 64 * 1024;
const DISCARD_MS = 5_000;
/** Less than this in the time for progress is none: a byte now and then would hold a place for ever. */
const LEAST_PROGRESS_BYTES = 1024;

export interface HttpRequest {
  readonly method?: 'GET' | 'POST';
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** The registry that this is for, `host[:port]`: its authorities are trusted wherever it leads to. */
  readonly registry: string;
  /** Whether the certificate may be anybody's. */
  readonly insecure: boolean;
  /** Without progress for so long the request fails. */
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

export interface HttpOptions {
  /** HTTPS_PROXY, HTTP_PROXY and NO_PROXY. */
  readonly env: NodeJS.ProcessEnv;
  /** Directories with certificates, see `loadHostCertificates`. */
  readonly certificates: readonly string[];
}

/** Keeps connections, goes through the node's proxies, and trusts what the node trusts. */
export class HttpClient {
  readonly #proxies: Proxies;
  readonly #certificates: readonly string[];
  /** By what makes connections differ: proxy, trust and identity. */
  readonly #agents = new Map<string, HttpAgent>();

  constructor({ env, certificates }: HttpOptions) {
    this.#proxies = new Proxies(env);
    this.#certificates = certificates;
  }

  /**
   * One request, no redirect followed. The body is the caller's to read or destroy.
   * @throws {JobError} `unreachable` naming the URL without its query, which may hold a signature.
   */
  async send(url: URL, { method = 'GET', headers, body, registry, insecure, idleMs, signal }: HttpRequest): Promise<IncomingMessage> {
    const secure = url.protocol === 'https:';
    signal.throwIfAborted();
    const agent = secure ? this.#secureAgent(url, registry, insecure) : this.#plainAgent(url);
    return new Promise((resolve, reject) => {
      const request = (secure ? requestHttps : requestHttp)(url, { method, headers: { ...headers, 'user-agent': 'berth' }, agent });
      let received: IncomingMessage | undefined;
      // Destroying is not enough: a request that waits for its proxy's tunnel would tell nobody.
      const fail = (err: unknown): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        reject(signal.aborted ? signal.reason : unreachable(url, err));
        (received ?? request).destroy(err instanceof Error ? err : undefined);
      };
      const onAbort = (): void => fail(signal.reason);
      const failAfter = (ms: number, why: string): NodeJS.Timeout => setTimeout(() => fail(new JobError('unreachable', `${why} within ${ms / 1000} s`)), ms);
      let timer = failAfter(Math.min(CONNECT_TIMEOUT_MS, idleMs), 'no connection');
      const connected = (): void => {
        clearTimeout(timer);
        // Headers that come one byte at a time keep a connection busy, too.
        timer = failAfter(idleMs, 'no progress: no answer');
      };
      signal.addEventListener('abort', onAbort, { once: true });
      request.on('socket', (socket) => {
        if (request.reusedSocket || isConnected(socket)) connected();
        else socket.once(secure ? 'secureConnect' : 'connect', connected);
      });
      request.on('close', () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      });
      request.setTimeout(idleMs, () => (received ?? request).destroy(stalled(idleMs)));
      request.on('error', fail);
      request.on('response', (response) => {
        clearTimeout(timer);
        received = response;
        watchProgress(response, idleMs);
        resolve(response);
      });
      request.end(body);
    });
  }

  isProxied(url: URL): boolean {
    return this.#proxies.of(url) !== '';
  }

  #plainAgent(url: URL): HttpAgent {
    const proxy = this.#proxies.of(url);
    return this.#agent(JSON.stringify(['http', proxy]), () => new HttpAgent({ keepAlive: true, ...through(proxy) }));
  }

  #secureAgent(url: URL, registry: string, insecure: boolean): HttpAgent {
    const proxy = this.#proxies.of(url);
    const isRegistry = URL.parse(`https://${registryHost(registry)}`)?.host === url.host;
    const own = loadHostCertificates(this.#certificates, isRegistry ? registry : url.host);
    const { ca, version } = isRegistry ? { ca: [], version: '' } : loadHostCertificates(this.#certificates, registry);
    return this.#agent(JSON.stringify(['https', proxy, insecure, own.version, version]), () => {
      const trust = trusting({ ...own, ca: [...own.ca, ...ca] }, own.version.split('\n')[0] || version.split('\n')[0] || '');
      return new HttpsAgent({ keepAlive: true, rejectUnauthorized: !insecure, ...trust, ...through(proxy) });
    });
  }

  #agent(key: string, make: () => HttpAgent): HttpAgent {
    const agent = this.#agents.get(key) ?? make();
    this.#agents.set(key, agent);
    return agent;
  }
}

/** TLS options; the system's authorities stay trusted. */
function trusting({ ca, client }: HostCertificates, directory: string): { ca?: string[]; cert?: string[]; key?: string[] } {
  const options = {
    ...(ca.length === 0 ? {} : { ca: [...getCACertificates('default'), ...ca] }),
    ...(client.length === 0 ? {} : { cert: client.map(({ cert }) => cert), key: client.map(({ key }) => key) }),
  };
  try {
    if (ca.length + client.length > 0) createSecureContext(options);
    return options;
  } catch (err) {
    throw new JobError('other', `certificates in ${directory} cannot be used: ${describeError(err)}`);
  }
}

function through(proxy: string): { proxyEnv?: NodeJS.ProcessEnv } {
  if (proxy === '') return {};
  if (!/^https?:/.test(proxy)) throw new JobError('refused', `proxy of kind ${proxy.split(':')[0]} is not supported; HTTP and HTTPS proxies are`);
  return { proxyEnv: { HTTP_PROXY: proxy, HTTPS_PROXY: proxy } };
}

/** A tunnel through a proxy comes with its handshake done. */
function isConnected(socket: Socket): boolean {
  return socket instanceof TLSSocket ? /^TLS/.test(socket.getProtocol() ?? '') : !socket.connecting;
}

/** Ends a body that trickles. One that stops altogether is ended by the socket's own timeout. */
function watchProgress(response: IncomingMessage, idleMs: number): void {
  const { socket } = response;
  let before = socket.bytesRead;
  const timer = setInterval(() => {
    const bytes = socket.bytesRead - before;
    before = socket.bytesRead;
    if (bytes < LEAST_PROGRESS_BYTES && !response.complete) {
      response.destroy(new JobError('unreachable', `no progress: no more than ${bytes} bytes were received in ${idleMs / 1000} s`));
    }
  }, idleMs);
  response.once('close', () => clearInterval(timer));
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

/** Reads the body that holds `what`; a connection that breaks meanwhile may be tried again, a stall or a refusal not. */
export async function bodyOf<T>(response: IncomingMessage, what: string, read: () => Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await read();
  } catch (err) {
    signal.throwIfAborted();
    if (err instanceof JobError || isErrno(err, 'ENOSPC', 'EDQUOT', 'EIO')) throw err;
    throw new PassingError(`${what}: connection broke: ${err instanceof Error ? err.message : String(err)}`, undefined, { cause: err });
  } finally {
    response.destroy();
  }
}

/** Reads a body that is of no interest, so that the connection can be used again; a long one ends it. */
export function discardBody(response: IncomingMessage): void {
  let size = 0;
  const timer = setTimeout(() => response.destroy(), DISCARD_MS);
  response.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size > MAX_DISCARDED_BYTES) response.destroy();
  });
  response.on('close', () => clearTimeout(timer));
  response.on('error', () => {}); // nobody waits for it
}
