import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { connectPackets, receivePackets, replaceDescriptor, unixSocket } from './sys.ts';

/** A stream over a socket that keeps packets apart. */
export interface PacketSocket {
  readonly socket: Socket;
  /**
   * What the other side had sent and the stream has not read when it broke: where that side closed with something of ours
   * unread, the kernel says ECONNRESET before it hands out the rest, and Node closes. To be called once the stream has.
   */
  rest(): Buffer[];
  /** Lets go of the rest. Without it the other side does not learn that the stream was destroyed. */
  release(): void;
}

/**
 * Connects to a unix socket of type SOCK_SEQPACKET, which Node knows nothing of: a stream over an ordinary unix socket is
 * made, and the descriptor below it is exchanged before anything is read. What Node does with it, read(2) and write(2), is
 * the same for both kinds. Each `data` event is one packet as long as the stream flows (never with async iteration), and
 * each write is one packet only if it is awaited before the next. Half-closing works as with any socket.
 * @throws {SysError} `EAGAIN` while too many wait to be accepted, `ECONNREFUSED`, `ENOENT`.
 */
export function connectPacketSocket(path: string): PacketSocket {
  let packets: number | undefined = connectPackets(path);
  const release = (): void => {
    if (packets !== undefined) closeSync(packets);
    packets = undefined;
  };
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
    return { socket, rest: () => (packets === undefined ? [] : receivePackets(packets)), release };
  } catch (err) {
    release();
    throw err;
  }
}
