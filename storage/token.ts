import type { Credentials } from './auth.ts';
import { bodyOf, type HttpClient, readBody } from './http.ts';
import { JobError } from './jobs.ts';
import { getFollowing } from './redirect.ts';
import { PassingError, parseRetryAfter } from './retry.ts';

const MAX_TOKEN_BYTES = 1024 * 1024;

/** One challenge of a WWW-Authenticate header. */
export interface Challenge {
  /** Lower case: `basic`, `bearer`. */
  readonly scheme: string;
  readonly parameters: Readonly<Record<string, string>>;
}

/** Source of the grammar: RFC 9110, 11.6.1; a header may hold several challenges. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; parameters: Record<string, string> }[] = [];
  const token = /\s*,?\s*(?:([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))|([A-Za-z0-9_-]+)(?=\s|,|$))/gy;
  for (const [, key, quoted, bare, scheme] of header.matchAll(token)) {
    if (scheme !== undefined) challenges.push({ scheme: scheme.toLowerCase(), parameters: {} });
    else if (key !== undefined) {
      const current = challenges.at(-1);
      if (current !== undefined) current.parameters[key.toLowerCase()] = quoted === undefined ? (bare ?? '') : quoted.replace(/\\(.)/g, '$1');
    }
  }
  return challenges;
}

export function basicHeader(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

export interface TokenRequest {
  readonly challenge: Challenge;
  readonly credentials: Credentials;
  /** Of the repository, where the challenge names none. */
  readonly scope: string;
  /** The registry that wants the token. */
  readonly registry: string;
  /** The registry may be spoken to without TLS, so its token server too. */
  readonly insecure: boolean;
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

/**
 * Asks the token server of a Bearer challenge for a token, anonymously where there are no credentials.
 * Source: the distribution project's token specification; with an identity token its OAuth2 variant.
 * @throws {JobError} `unauthorised` when it refuses; the message has no credential in it.
 */
export async function fetchToken(http: HttpClient, { challenge, credentials, scope, ...how }: TokenRequest): Promise<string> {
  const realm = URL.parse(challenge.parameters.realm ?? '');
  if (realm === null || !/^https?:$/.test(realm.protocol)) throw new JobError('other', 'registry asks for a token without saying where to get one');
  if (realm.protocol === 'http:' && !how.insecure)
    throw new JobError('refused', `token server ${realm.origin} is asked for over plain HTTP by a registry that is not marked insecure`);
  const service = challenge.parameters.service ?? '';
  const wanted = challenge.parameters.scope ?? scope;
  const headers: Record<string, string> = { accept: 'application/json' };
  let body: string | undefined;
  if (credentials.kind === 'identity') {
    headers['content-type'] = 'application/x-www-form-urlencoded';
    body = new URLSearchParams({ grant_type: 'refresh_token', refresh_token: credentials.token, service, scope: wanted, client_id: 'berth' }).toString();
  } else {
    if (service !== '') realm.searchParams.set('service', service);
    for (const one of wanted.split(' ').filter(Boolean)) realm.searchParams.append('scope', one);
    if (credentials.kind === 'basic') headers.authorization = basicHeader(credentials.username, credentials.password);
  }
  // A body with a token in it goes where it was meant to go, and nowhere else.
  const response =
    body === undefined ? (await getFollowing(http, realm, { ...how, headers })).response : await http.send(realm, { ...how, headers, method: 'POST', body });
  const where = `token server ${realm.host}`;
  const answer = await bodyOf(response, where, () => readBody(response, MAX_TOKEN_BYTES, `answer of ${where}`), how.signal);
  const status = response.statusCode ?? 0;
  if (status === 408 || status === 429 || status >= 500)
    throw new PassingError(`${where} answers ${status}`, parseRetryAfter(response.headers['retry-after'], Date.now()));
  if (status !== 200) {
    const shown = credentials.kind === 'none' ? 'gives no anonymous token' : 'refuses the credentials';
    throw new JobError('unauthorised', `${where} ${shown} (${status})`);
  }
  return readToken(answer.toString(), where);
}

function readToken(text: string, where: string): string {
  try {
    const { token, access_token: accessToken } = JSON.parse(text) as Record<string, unknown>;
    const found = token ?? accessToken;
    if (typeof found === 'string' && /^[\x21-\x7e]+$/.test(found)) return found;
  } catch {
    // said below: the parser's message would quote the answer, which may hold a token
  }
  throw new JobError('other', `${where} answers without a token`);
}
