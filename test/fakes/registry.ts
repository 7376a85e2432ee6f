import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

/** What the registry keeps: manifests by `repository:tag` or digest, blobs by digest. */
export interface FakeContent {
  readonly manifests: ReadonlyMap<string, { body: Buffer; type: string }>;
  readonly blobs: ReadonlyMap<string, Buffer>;
}

/** What goes wrong with one request. */
export type Fault =
  | { readonly status: number; readonly headers?: Record<string, string> }
  /** Sends half of the body, then drops the connection. */
  | 'break'
  /** Sends half of the body, then nothing more. */
  | 'hang'
  /** Sends the body with one byte changed. */
  | 'corrupt'
  /** Does what it likes. `body` is what would have been sent. */
  | ((response: ServerResponse, body: Buffer) => void);

export interface FakeRegistryOptions {
  /** `token` sends clients to `/token` of the same server. Default `none`. */
  readonly auth?: 'none' | 'basic' | 'token';
  /** Passwords by user. Without users everybody gets an anonymous token. */
  readonly users?: Readonly<Record<string, string>>;
  /** Accepted at `/token` as an OAuth2 refresh token. */
  readonly identityToken?: string;
  /** Speaks TLS with this key and certificate (PEM). */
  readonly tls?: { readonly key: string; readonly cert: string };
  /** Asked for each request of a token. */
  readonly tokenFault?: (count: number) => Fault | undefined;
  /** Asked for each request that is authorised. */
  readonly fault?: (request: { method: string; path: string; count: number }) => Fault | undefined;
}

/** A registry on a free loopback port, as far as pulling goes, that can fail on purpose and remembers what it was asked. */
export class FakeRegistry implements AsyncDisposable {
  readonly requests: { method: string; path: string; authorization: string | undefined; range: string | undefined }[] = [];
  readonly #server: Server;
  readonly #content: FakeContent;
  readonly #options: FakeRegistryOptions;
  readonly #tokens = new Set<string>();

  private constructor(content: FakeContent, options: FakeRegistryOptions) {
    this.#content = content;
    this.#options = options;
    const serve = (request: IncomingMessage, response: ServerResponse): void => void this.#serve(request, response);
    this.#server = options.tls === undefined ? createServer(serve) : createTlsServer(options.tls, serve);
  }

  static async start(content: FakeContent, options: FakeRegistryOptions = {}): Promise<FakeRegistry> {
    const registry = new FakeRegistry(content, options);
    await new Promise<void>((resolve) => registry.#server.listen(0, '127.0.0.1', resolve));
    return registry;
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Tokens given so far are worth nothing from here on. */
  expireTokens(): void {
    this.#tokens.clear();
  }

  /** How often a path that holds `part` was asked for. */
  count(part: string): number {
    return this.requests.filter(({ path }) => path.includes(part)).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', `http://${this.host}`);
    const path = url.pathname;
    const method = request.method ?? 'GET';
    this.requests.push({ method, path, authorization: request.headers.authorization, range: request.headers.range });
    if (path === '/token') {
      const fault = this.#options.tokenFault?.(this.count('/token'));
      if (typeof fault === 'function') {
        fault(response, Buffer.alloc(0));
        return;
      }
      if (typeof fault === 'object') {
        response.writeHead(fault.status, fault.headers).end();
        return;
      }
      await this.#giveToken(request, url, response);
      return;
    }
    if (!this.#isAuthorised(request)) {
      const challenge = this.#options.auth === 'basic' ? 'Basic realm="fake"' : `Bearer realm="http://${this.host}/token",service="fake"`;
      response.writeHead(401, { 'www-authenticate': challenge }).end('{"errors":[{"code":"UNAUTHORIZED"}]}');
      return;
    }
    const fault = this.#options.fault?.({ method, path, count: this.requests.filter((seen) => seen.path === path).length });
    if (typeof fault === 'object') {
      response.writeHead(fault.status, fault.headers).end();
      return;
    }
    const found = this.#find(path);
    if (typeof fault === 'function') {
      fault(response, found?.body ?? Buffer.alloc(0));
      return;
    }
    if (found === undefined) {
      response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}');
      return;
    }
    this.#send(request, response, found, fault);
  }

  #find(path: string): { body: Buffer; type: string } | undefined {
    const [, repository = '', kind, name = ''] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(path) ?? [];
    if (kind === 'manifests') return this.#content.manifests.get(`${repository}:${name}`) ?? this.#content.manifests.get(name);
    const body = this.#content.blobs.get(name);
    return body === undefined ? undefined : { body, type: 'application/octet-stream' };
  }

  #send(request: IncomingMessage, response: ServerResponse, { body, type }: { body: Buffer; type: string }, fault: Exclude<Fault, object> | undefined): void {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const bytes = Buffer.from(body.subarray(from));
    if (fault === 'corrupt') bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    response.writeHead(from > 0 ? 206 : 200, {
      'content-type': type,
      'content-length': bytes.length,
      ...(from > 0 ? { 'content-range': `bytes ${from}-${body.length - 1}/${body.length}` } : {}),
    });
    if (fault !== 'break' && fault !== 'hang') {
      response.end(bytes);
      return;
    }
    response.write(bytes.subarray(0, bytes.length >> 1), () => {
      if (fault === 'break') setImmediate(() => response.destroy());
    });
  }

  #isAuthorised({ headers: { authorization = '' } }: IncomingMessage): boolean {
    if (this.#options.auth === 'basic') return this.#isUser(authorization);
    if (this.#options.auth === 'token') return this.#tokens.has(authorization.replace(/^Bearer /, ''));
    return true;
  }

  #isUser(authorization: string): boolean {
    const [user = '', password] = Buffer.from(authorization.replace(/^Basic /, ''), 'base64')
      .toString()
      .split(':');
    return password !== undefined && this.#options.users?.[user] === password;
  }

  async #giveToken(request: IncomingMessage, url: URL, response: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const form = new URLSearchParams(body);
    const isAnonymous = this.#options.users === undefined && this.#options.identityToken === undefined && request.method === 'GET';
    const isRefreshed = request.method === 'POST' && form.get('refresh_token') === this.#options.identityToken && form.get('grant_type') === 'refresh_token';
    const asked = request.method === 'POST' ? form.get('scope') : url.searchParams.get('scope');
    const isAllowed = isAnonymous || isRefreshed || (request.method === 'GET' && this.#isUser(request.headers.authorization ?? ''));
    if (!isAllowed || !/^repository:.+:pull$/.test(asked ?? '')) {
      response.writeHead(401).end();
      return;
    }
    const token = randomBytes(16).toString('hex');
    this.#tokens.add(token);
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(request.method === 'POST' ? { access_token: token } : { token }));
  }
}
