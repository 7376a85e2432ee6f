import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { Channel, ChannelSocket, type Coding } from './channels.ts';
import { clientGone, conduct, idleTooLong, type LiveSession } from './conduct.ts';
import { endingStatus, endingText } from './exit-status.ts';
import type { SessionHandler, StreamOptions } from './session.ts';
import { SizeReader } from './terminal-size.ts';

/** What each subprotocol can do. Without any it is as `channel.k8s.io`. Source: k8s.io/kubelet, cri/streaming/remotecommand. */
const protocols = {
  'v5.channel.k8s.io': { coding: 'binary', status: true, close: true },
  'v4.channel.k8s.io': { coding: 'binary', status: true, close: false },
  'v4.base64.channel.k8s.io': { coding: 'base64', status: true, close: false },
  'channel.k8s.io': { coding: 'binary', status: false, close: false },
  'base64.channel.k8s.io': { coding: 'base64', status: false, close: false },
  '': { coding: 'binary', status: false, close: false },
} as const satisfies Readonly<Record<string, { coding: Coding; status: boolean; close: boolean }>>;

export type ExecWebSocketProtocol = keyof typeof protocols;
export const EXEC_WEBSOCKET_PROTOCOLS = Object.keys(protocols) as readonly ExecWebSocketProtocol[];

const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;

/** Serves an exec or an attach to a client that speaks WebSocket. */
export function serveExecWebSocket(
  ws: WebSocket,
  {
    transport,
    protocol,
    streams: wanted,
    idleTimeoutMs,
  }: { readonly transport: Duplex; readonly protocol: ExecWebSocketProtocol; readonly streams: StreamOptions; readonly idleTimeoutMs: number },
  handler: SessionHandler,
  report: (err: Error) => void,
): LiveSession {
  const { coding, status, close } = protocols[protocol];
  const controller = new AbortController();
  const sizes = new SizeReader();

  const receive = (channel: number, bytes: Buffer): void => {
    if (channel === CHANNEL.stdin) stdin?.receive(bytes);
    else if (channel === CHANNEL.resize) sizes.push(bytes);
    else if (channel === CHANNEL.close && close && bytes[0] === CHANNEL.stdin) stdin?.receiveEnd();
  };
  const socket = new ChannelSocket(ws, { transport, coding, idleTimeoutMs }, receive, {
    idle: () => controller.abort(idleTooLong(idleTimeoutMs)),
    closed(err) {
      controller.abort(clientGone());
      if (err !== undefined) report(err);
    },
  });
  const open = (name: 'stdin' | 'stdout' | 'stderr', asked: boolean): Channel | undefined => (asked ? new Channel(socket, CHANNEL[name]) : undefined);
  const stdin = open('stdin', wanted.stdin);
  const stdout = open('stdout', wanted.stdout);
  const stderr = open('stderr', wanted.stderr && !wanted.tty);

  // An empty message tells the client that the session has begun.
  socket.send(stdout !== undefined ? CHANNEL.stdout : stderr !== undefined ? CHANNEL.stderr : CHANNEL.error, Buffer.alloc(0));
  return conduct(
    {
      session: { stdin, stdout, stderr, terminal: wanted.tty ? sizes : undefined },
      controller,
      finish(ending) {
        const text = status ? endingStatus(ending) : endingText(ending);
        if (text !== '') socket.send(CHANNEL.error, Buffer.from(text));
        socket.close();
      },
    },
    handler,
  );
}
