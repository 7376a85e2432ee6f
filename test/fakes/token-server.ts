import { createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface TokenServerOptions {
  /** PEM, of an EC key on P-256. */
  readonly key: string;
  readonly cert: string;
  /** What the registry calls itself and the server. */
  readonly service: string;
  readonly issuer: string;
  /** Passwords by user; everybody else gets an anonymous token, which allows `public/…` only. */
  readonly users: Readonly<Record<string, string>>;
  /** Taken as an OAuth2 refresh token of the first user. */
  readonly identityToken: string;
}

/** What a token for docker-registry is asked of. Source: the distribution project's "Token Authentication Specification" and "JWT". */
export class TokenServer implements AsyncDisposable {
  /** What was asked, without credentials. */
  readonly requests: { method: string; user: string | undefined; scope: string | null }[] = [];
  /** How long tokens are good for. */
  lifeSeconds = 300;
  readonly #server: Server;
  readonly #options: TokenServerOptions;

  private constructor(options: TokenServerOptions) {
    this.#options = options;
    this.#server = createServer((request, response) => void this.#serve(request, response));
  }

  static async start(options: TokenServerOptions): Promise<TokenServer> {
    const server = new TokenServer(options);
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/token`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** A token that the registry takes, for one repository. */
  token(repository: string, subject = ''): string {
    const { key, cert, service, issuer } = this.#options;
    const now = Math.floor(Date.now() / 1_000);
    const header = { typ: 'JWT', alg: 'ES256', x5c: [new X509Certificate(cert).raw.toString('base64')] };
    const claims = {
      iss: issuer,
      sub: subject,
      aud: service,
      nbf: now - 60,
      iat: now,
      exp: now + this.lifeSeconds,
      jti: randomUUID(),
      access: [{ type: 'repository', name: repository, actions: ['pull'] }],
    };
    const text = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
    const signature = sign('sha256', Buffer.from(text), { key: createPrivateKey(key), dsaEncoding: 'ieee-p1363' });
    return `${text}.${signature.toString('base64url')}`;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', this.url);
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const form = new URLSearchParams(body);
    const { method = 'GET' } = request;
    const scope = method === 'POST' ? form.get('scope') : url.searchParams.get('scope');
    const service = method === 'POST' ? form.get('service') : url.searchParams.get('service');
    const user = method === 'POST' ? this.#refreshed(form) : this.#shown(request.headers.authorization);
    this.requests.push({ method, user, scope });
    const repository = /^repository:(.+):pull$/.exec(scope ?? '')?.[1];
    const allowed = user === '' ? repository?.startsWith('public/') === true : user !== undefined;
    if (!allowed || repository === undefined || service !== this.#options.service) {
      response.writeHead(401).end();
      return;
    }
    const token = this.token(repository, user);
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(method === 'POST' ? { access_token: token } : { token }));
  }

  /** The user of a Basic header, '' for none, `undefined` for a wrong one. */
  #shown(authorization: string | undefined): string | undefined {
    if (authorization === undefined) return '';
    const [user = '', password] = Buffer.from(authorization.replace(/^Basic /, ''), 'base64')
      .toString()
      .split(':');
    return password !== undefined && this.#options.users[user] === password ? user : undefined;
  }

  #refreshed(form: URLSearchParams): string | undefined {
    const right = form.get('grant_type') === 'refresh_token' && form.get('refresh_token') === this.#options.identityToken;
    return right ? Object.keys(this.#options.users)[0] : undefined;
  }
}
