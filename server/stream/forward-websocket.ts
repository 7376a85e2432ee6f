import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import type { CriError } from '#base/errors.ts';
import { Channel, ChannelSocket, type Coding } from './channels.ts';
import { clientGone, idleTooLong, type LiveSession } from './conduct.ts';
import { forward } from './forward.ts';
import type { PortConnector } from './session.ts';

/** The protocols without a tunnel. Source: k8s.io/kubelet, cri/streaming/portforward. */
const codings = {
  'v4.channel.k8s.io': 'binary',
  'v4.base64.channel.k8s.io': 'base64',
  '': 'binary',
} as const satisfies Readonly<Record<string, Coding>>;

export type ForwardWebSocketProtocol = keyof typeof codings;
export const FORWARD_WEBSOCKET_PROTOCOLS = Object.keys(codings) as readonly ForwardWebSocketProtocol[];

/** The number of a channel is one byte, and each port has two. */
export const MAX_FORWARD_PORTS = 128;

/**
 * Serves port-forward the old way: one connection for each port that the RPC named, made at once. Port number n has the
 * channels 2n for its data and 2n + 1 for its error, each beginning with the port in two bytes, the low one first.
 */
export function serveForwardWebSocket(
  ws: WebSocket,
  {
    transport,
    protocol,
    ports,
    idleTimeoutMs,
  }: { readonly transport: Duplex; readonly protocol: ForwardWebSocketProtocol; readonly ports: readonly number[]; readonly idleTimeoutMs: number },
  connect: PortConnector,
  report: (err: Error) => void,
): LiveSession {
  const controller = new AbortController();
  const { promise: done, resolve } = Promise.withResolvers<void>();
  const channels: Channel[] = [];
  const end = (reason: CriError): void => {
    controller.abort(reason);
    for (const channel of channels) channel.destroy();
    socket.close();
  };
  const socket = new ChannelSocket(
    ws,
    { transport, coding: codings[protocol], idleTimeoutMs },
    (channel, bytes) => {
      if (channel % 2 === 0) channels[channel]?.receive(bytes);
    },
    {
      idle: () => end(idleTooLong(idleTimeoutMs)),
      closed(err) {
        controller.abort(clientGone());
        for (const channel of channels) channel.destroy();
        resolve();
        if (err !== undefined) report(err);
      },
    },
  );
  const open = (port: number): Channel => {
    const channel = new Channel(socket, channels.length);
    channels.push(channel);
    const name = Buffer.allocUnsafe(2);
    name.writeUInt16LE(port);
    channel.write(name);
    return channel;
  };
  const pairs = ports.map((port) => ({ port, data: open(port), error: open(port) }));
  const ended = pairs.map(({ port, data, error }) => {
    // The client cannot end its side, so the pod's end is that of the connection.
    data.once('finish', () => data.destroy());
    return forward({ data, error }, port, connect, controller.signal);
  });
  void Promise.all(ended).then(() => socket.close());
  return { end, done };
}
