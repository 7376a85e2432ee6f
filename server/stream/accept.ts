import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import type { LiveSession } from './conduct.ts';
import { EXEC_SPDY_PROTOCOLS, type Limits, serveExecSpdy } from './exec-spdy.ts';
import { EXEC_WEBSOCKET_PROTOCOLS, serveExecWebSocket } from './exec-websocket.ts';
import { FORWARD_SPDY_PROTOCOLS, serveForwardSpdy } from './forward-spdy.ts';
import { FORWARD_WEBSOCKET_PROTOCOLS, MAX_FORWARD_PORTS, serveForwardWebSocket } from './forward-websocket.ts';
import type { PortConnector, SessionHandler, StreamOptions } from './session.ts';
import { Tunnel } from './tunnel.ts';
import { chooseSpdy, chooseWebSocket, notAnUpgrade, type Refusal, spdyMessage, upgradeOf } from './upgrade.ts';

/** What a URL stands for. */
export type Ticket = ExecTicket | ForwardTicket;

interface ExecTicket {
  readonly kind: 'exec' | 'attach';
  readonly streams: StreamOptions;
  readonly handler: SessionHandler;
}

interface ForwardTicket {
  readonly kind: 'portforward';
  readonly pod: string;
  readonly ports: readonly number[];
  readonly connect: PortConnector;
}

/** A connection whose HTTP request asks for another protocol. */
export interface Arrival {
  readonly request: IncomingMessage;
  readonly socket: Socket;
  /** What the client has sent after its request. */
  readonly head: Buffer;
  readonly limits: Limits;
  /** Told of what a client did wrong. */
  readonly report: (err: Error) => void;
}

/** One message; clients send 32 KiB. */
const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;
const TUNNEL = 'SPDY/3.1+portforward.k8s.io';

/** Answers the request and serves the session. `undefined` where the request was no sound WebSocket handshake and has been answered so. */
export function accept(arrival: Arrival, ticket: Ticket): LiveSession | Refusal | undefined {
  const upgrade = upgradeOf(arrival.request);
  if (upgrade === undefined) return notAnUpgrade;
  if (ticket.kind === 'portforward') return upgrade === 'spdy' ? forwardBySpdy(arrival, ticket) : forwardByWebSocket(arrival, ticket);
  return upgrade === 'spdy' ? execBySpdy(arrival, ticket) : execByWebSocket(arrival, ticket);
}

function execBySpdy({ request, socket, head, limits, report }: Arrival, { streams, handler }: ExecTicket): LiveSession | Refusal {
  const protocol = chooseSpdy(request, EXEC_SPDY_PROTOCOLS);
  if (typeof protocol !== 'string') return protocol;
  socket.write(spdyMessage(protocol));
  return serveExecSpdy(socket, head, { protocol, streams, limits }, handler, report);
}

function forwardBySpdy({ request, socket, head, limits, report }: Arrival, { connect }: ForwardTicket): LiveSession | Refusal {
  const protocol = chooseSpdy(request, FORWARD_SPDY_PROTOCOLS);
  if (typeof protocol !== 'string') return protocol;
  socket.write(spdyMessage(protocol));
  return serveForwardSpdy(socket, head, limits, connect, report);
}

function execByWebSocket(arrival: Arrival, { streams, handler }: ExecTicket): LiveSession | Refusal | undefined {
  const { request, socket: transport, limits, report } = arrival;
  const protocol = chooseWebSocket(request, EXEC_WEBSOCKET_PROTOCOLS);
  if (typeof protocol !== 'string') return protocol;
  const ws = shakeHands(arrival, protocol);
  return ws && serveExecWebSocket(ws, { transport, protocol, streams, idleTimeoutMs: limits.idleTimeoutMs }, handler, report);
}

function forwardByWebSocket(arrival: Arrival, { ports, connect }: ForwardTicket): LiveSession | Refusal | undefined {
  const { request, socket: transport, limits, report } = arrival;
  const protocol = chooseWebSocket(request, [TUNNEL, ...FORWARD_WEBSOCKET_PROTOCOLS]);
  if (typeof protocol !== 'string') return protocol;
  if (protocol !== TUNNEL && ports.length > MAX_FORWARD_PORTS) return tooManyPorts(ports.length);
  const ws = shakeHands(arrival, protocol);
  if (ws === undefined) return undefined;
  if (protocol === TUNNEL) return serveForwardSpdy(new Tunnel(ws, transport), Buffer.alloc(0), limits, connect, report);
  return serveForwardWebSocket(ws, { transport, protocol, ports, idleTimeoutMs: limits.idleTimeoutMs }, connect, report);
}

const tooManyPorts = (count: number): Refusal => ({
  code: 400,
  text: `unable to upgrade: port: ${count} ports are more than the ${MAX_FORWARD_PORTS} that have channels`,
});

/** The protocol is agreed by us: to `ws` the name of the tunnel's is not one, for the slash in it. */
function shakeHands({ request, socket, head }: Arrival, protocol: string): WebSocket | undefined {
  const server = new WebSocketServer({ noServer: true, clientTracking: false, perMessageDeflate: false, maxPayload: MAX_MESSAGE_BYTES });
  delete request.headers['sec-websocket-protocol'];
  if (protocol !== '') server.on('headers', (headers) => headers.push(`Sec-WebSocket-Protocol: ${protocol}`));
  let made: WebSocket | undefined;
  server.handleUpgrade(request, socket, head, (ws) => {
    made = ws; // called at once, or never
  });
  return made;
}
