import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { connectPackets, replaceDescriptor, unixSocket } from './sys.ts';

/**
 * Connects to a unix socket of type SOCK_SEQPACKET, which Node knows nothing of: a stream over an ordinary unix socket is
 * made, and the descriptor below it is exchanged before anything is read. What Node does with it, read(2) and write(2), is
 * the same for both kinds. Each `data` event is one packet as long as the stream flows (never with async iteration), and
 * each write is one packet only if it is awaited before the next. Half-closing works as with any socket.
 * @throws {SysError} `EAGAIN` while too many wait to be accepted, `ECONNREFUSED`, `ENOENT`.
 */
export function connectPacketSocket(path: string): Socket {
  const packets = connectPackets(path);
  try {
    const fd = unixSocket();
    let socket: Socket;
    try {
      socket = new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
    } catch (err) {
      closeSync(fd);
      throw err;
    }
    replaceDescriptor(packets, fd);
    return socket;
  } finally {
    closeSync(packets);
  }
}
