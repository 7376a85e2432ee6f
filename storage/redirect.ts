import type { IncomingMessage } from 'node:http';
import { discardBody, type HttpClient, type HttpRequest } from './http.ts';
import { JobError } from './jobs.ts';

const MAX_REDIRECTS = 5;

/** A response, and the host that gave it where redirects led away from the one that was asked. */
export interface Answer {
  readonly response: IncomingMessage;
  readonly elsewhere: string | undefined;
}

/**
 * GET, following redirects. The Authorization header stays with whom it was made for, and does not come back on a way that
 * has left them: storage back ends are other people's.
 * @throws {JobError} `refused` for a way that leaves TLS or HTTP, `unreachable` for one without end.
 */
export async function getFollowing(http: HttpClient, first: URL, { headers, ...how }: Omit<HttpRequest, 'method' | 'body'>): Promise<Answer> {
  const { authorization: _kept, ...others } = headers;
  let url = first;
  let elsewhere: string | undefined;
  for (let hop = 0; hop <= MAX_REDIRECTS; hop += 1) {
    if (elsewhere !== undefined || !isSameParty(first, url)) elsewhere = url.host;
    const response = await http.send(url, { ...how, headers: elsewhere === undefined ? headers : others });
    const location = response.headers.location;
    if (![301, 302, 303, 307, 308].includes(response.statusCode ?? 0) || location === undefined) return { response, elsewhere };
    discardBody(response);
    const next = URL.parse(location, url);
    if (next === null || !/^https?:$/.test(next.protocol))
      throw new JobError('refused', `${first.origin}${first.pathname} redirects to what is no HTTP address`);
    if (next.protocol === 'http:' && !how.insecure)
      throw new JobError('refused', `${first.origin}${first.pathname} redirects from TLS to plain HTTP at ${next.host}`);
    next.username = next.password = '';
    url = next;
  }
  throw new JobError('unreachable', `${first.origin}${first.pathname} redirects more than ${MAX_REDIRECTS} times`);
}

/** The same origin, or the same host that asks for TLS on the ports that belong to both. */
export function isSameParty(first: URL, next: URL): boolean {
  const isUpgrade = first.protocol === 'http:' && next.protocol === 'https:' && first.port === '' && next.port === '';
  return first.origin === next.origin || (isUpgrade && first.hostname === next.hostname);
}
