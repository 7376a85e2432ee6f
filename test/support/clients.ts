import type { Daemon } from './daemon.ts';
import { findTool } from './tool.ts';

/** Verbs of a client: the program and all that stands before the container's id. */
export interface StreamClient {
  readonly name: string;
  readonly exec: (flags: readonly string[], container: string, command: readonly string[]) => readonly [string, ...string[]];
  readonly attach: (flags: readonly string[], container: string) => readonly [string, ...string[]];
  readonly portForward: (pod: string, port: string) => readonly [string, ...string[]];
}

/**
 * The clients that people have: crictl of today by WebSocket and by SPDY, and one made of the libraries of crictl 1.26.
 * Those that are missing here are left out, loudly.
 */
export function streamClients(daemon: Pick<Daemon, 'socket'>): StreamClient[] {
  const crictl = findTool('crictl');
  const old = findTool('old-client');
  for (const [name, path] of Object.entries({ crictl, 'old-client': old }))
    if (path === undefined) console.warn(`${name} is not here: streaming is not tried with it`);
  const clients: StreamClient[] = [];
  if (crictl !== undefined) {
    const common = ['--config', '/dev/null', '-r', `unix://${daemon.socket}`, '-i', `unix://${daemon.socket}`, '-t', '60s'];
    for (const transport of ['websocket', 'spdy']) {
      clients.push({
        name: `crictl by ${transport}`,
        exec: (flags, container, command) => [crictl, ...common, 'exec', '--transport', transport, ...flags, container, ...command],
        attach: (flags, container) => [crictl, ...common, 'attach', '--transport', transport, ...flags, container],
        portForward: (pod, port) => [crictl, ...common, 'port-forward', '--transport', transport, pod, port],
      });
    }
  }
  if (old !== undefined) {
    clients.push({
      name: 'an old client',
      exec: (flags, container, command) => [old, daemon.socket, 'exec', ...flags, container, ...command],
      attach: (flags, container) => [old, daemon.socket, 'attach', ...flags, container],
      portForward: (pod, port) => [old, daemon.socket, 'port-forward', pod, port],
    });
  }
  return clients;
}
