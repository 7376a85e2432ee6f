import type { IncomingMessage } from 'node:http';
import { expect, test } from 'vitest';
import { chooseSpdy, chooseWebSocket, refusalMessage, upgradeOf } from '../../../../server/stream/upgrade.ts';

const asking = (headers: Record<string, string | string[]>): IncomingMessage => ({ headers }) as unknown as IncomingMessage;
const own = ['v4.channel.k8s.io', 'channel.k8s.io', ''] as const;

test('upgradeOf() knows two protocols', () => {
  expect(upgradeOf(asking({ upgrade: 'SPDY/3.1' }))).toBe('spdy');
  expect(upgradeOf(asking({ upgrade: 'WebSocket' }))).toBe('websocket');
  expect(upgradeOf(asking({ upgrade: 'h2c' }))).toBeUndefined();
  expect(upgradeOf(asking({}))).toBeUndefined();
});

test.each<[string, string | string[], string]>([
  ['the first of the client that is known', 'v9.channel.k8s.io, channel.k8s.io, v4.channel.k8s.io', 'channel.k8s.io'],
  ['one of several headers', ['v4.channel.k8s.io', 'channel.k8s.io'], 'v4.channel.k8s.io'],
])('a protocol is chosen: %s', (_what, offered, chosen) => {
  expect(chooseSpdy(asking({ 'x-stream-protocol-version': offered }), own)).toBe(chosen);
  expect(chooseWebSocket(asking({ 'sec-websocket-protocol': offered }), own)).toBe(chosen);
});

test('without an offer a WebSocket is served the oldest protocol, and SPDY refused', () => {
  expect(chooseWebSocket(asking({}), own)).toBe('');
  expect(chooseSpdy(asking({}), own)).toEqual({ code: 400, text: 'unable to upgrade: X-Stream-Protocol-Version is required' });
});

test('without a common protocol both are refused, SPDY with what would be taken', () => {
  const refusal = chooseSpdy(asking({ 'x-stream-protocol-version': ['a, b', 'c'] }), ['v4.channel.k8s.io', 'channel.k8s.io']);
  if (typeof refusal === 'string') throw new Error(refusal);
  expect(refusalMessage(refusal).split('\r\n')).toEqual([
    'HTTP/1.1 403 Forbidden',
    'X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io',
    'X-Accepted-Stream-Protocol-Versions: channel.k8s.io',
    'Content-Type: text/plain; charset=utf-8',
    'Content-Length: 124',
    'Connection: close',
    '',
    'unable to upgrade: unable to negotiate protocol: client supports [a b c], server accepts [v4.channel.k8s.io channel.k8s.io]\n',
  ]);
  expect(chooseWebSocket(asking({ 'sec-websocket-protocol': 'a' }), own)).toMatchObject({ code: 403 });
});
