import type { IncomingMessage } from 'node:http';

/** Why a request is not served, as an HTTP answer. The texts and codes are those of the Kubernetes servers. */
export interface Refusal {
  readonly code: 400 | 403 | 404;
  readonly text: string;
  /** Protocols that would have been taken, for the client to see. */
  readonly accepted?: readonly string[];
}

const PROTOCOL_HEADER = 'X-Stream-Protocol-Version';
const ACCEPTED_HEADER = 'X-Accepted-Stream-Protocol-Versions';

export const notFound: Refusal = { code: 404, text: '404 page not found' };
export const notAnUpgrade: Refusal = { code: 400, text: 'unable to upgrade: missing upgrade headers in request' };

/** The connection's new protocol, as the request names it. */
export function upgradeOf({ headers }: IncomingMessage): 'spdy' | 'websocket' | undefined {
  const name = headers.upgrade?.toLowerCase();
  if (name === 'websocket') return 'websocket';
  return name === 'spdy/3.1' ? 'spdy' : undefined;
}

/** The first of the client's protocols that is supported. Source: k8s.io/apimachinery, util/httpstream, Handshake. */
export function chooseSpdy<T extends string>({ headers }: IncomingMessage, supported: readonly T[]): T | Refusal {
  const offered = listOf(headers[PROTOCOL_HEADER.toLowerCase()]);
  if (offered.length === 0) return { code: 400, text: `unable to upgrade: ${PROTOCOL_HEADER} is required` };
  return choose(offered, supported) ?? { code: 403, text: disagreement(offered, supported), accepted: supported };
}

/** As `chooseSpdy`; a client that offers none gets the one without a name. Source: k8s.io/apimachinery, util/httpstream/wsstream. */
export function chooseWebSocket<T extends string>({ headers }: IncomingMessage, supported: readonly T[]): T | Refusal {
  const offered = listOf(headers['sec-websocket-protocol']);
  return choose(offered.length === 0 ? [''] : offered, supported) ?? { code: 403, text: disagreement(offered, supported) };
}

const choose = <T extends string>(offered: readonly string[], supported: readonly T[]): T | undefined => {
  const found = offered.find((name) => supported.some((own) => own === name));
  return found as T | undefined;
};

const disagreement = (offered: readonly string[], supported: readonly string[]): string =>
  `unable to upgrade: unable to negotiate protocol: client supports [${offered.join(' ')}], server accepts [${supported.filter((name) => name !== '').join(' ')}]`;

function listOf(header: string | string[] | undefined): string[] {
  return [header ?? []]
    .flat()
    .flatMap((line) => line.split(','))
    .map((name) => name.trim())
    .filter((name) => name !== '');
}

const REASONS = { 400: 'Bad Request', 403: 'Forbidden', 404: 'Not Found' } as const;

/** The whole HTTP answer, for a connection that is closed after it. */
export function refusalMessage({ code, text, accepted = [] }: Refusal): string {
  const body = `${text}\n`;
  const lines = [
    `HTTP/1.1 ${code} ${REASONS[code]}`,
    ...accepted.map((name) => `${ACCEPTED_HEADER}: ${name}`),
    'Content-Type: text/plain; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
  ];
  return `${lines.join('\r\n')}\r\n\r\n${body}`;
}

/** The answer after which the connection speaks SPDY. */
export function spdyMessage(protocol: string): string {
  return `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n${PROTOCOL_HEADER}: ${protocol}\r\n\r\n`;
}
