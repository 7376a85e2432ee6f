import { closeSync } from 'node:fs';
import { callAsync, check, libc } from './libc.ts';
import { inNamespaces } from './namespace.ts';

const native = {
  socket: libc.func('int socket(int, int, int)'),
  connect: libc.func('int connect(int, const uint8_t*, uint32_t)'),
  ioctl: libc.func('int ioctl(int, unsigned long, const void*)'),
  send: libc.func('int64_t send(int, const uint8_t*, size_t, int)'),
  recv: libc.func('int64_t recv(int, _Out_ uint8_t*, size_t, int)'),
};

/**
 * Brings the loopback device of a network namespace up. Only the socket is made in there; the call that takes the
 * kernel's network lock, which others may hold for long, waits on a thread of the pool. Source: netdevice(7).
 */
export async function loopbackUpAsync(netns: string): Promise<void> {
  const AF_INET = 2;
  const SOCK_DGRAM = 2;
  const SOCK_CLOEXEC = 0o2000000;
  const SIOCSIFFLAGS = 0x8914;
  const IFF_UP_RUNNING = 0x41;
  const fd = inNamespaces({ net: netns }, () => check(native.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket', netns));
  try {
    const request = Buffer.alloc(40); // struct ifreq: the name in 16 bytes, then the flags
    request.write('lo');
    request.writeUInt16LE(IFF_UP_RUNNING, 16);
    await callAsync(native.ioctl, [fd, SIOCSIFFLAGS, request], 'ioctl SIOCSIFFLAGS', netns);
  } finally {
    closeSync(fd);
  }
}

/**
 * A TCP socket of a network namespace, not connected and not blocking; the caller's to close. Only its making happens in
 * there: from then on it belongs to that namespace wherever it is used.
 * @throws {SysError} `EAFNOSUPPORT` where the kernel has no such family; Node's `ENOENT` where the namespace is gone.
 */
export function tcpSocketIn(netns: string, family: 4 | 6): number {
  const AF = { 4: 2, 6: 10 };
  const SOCK_STREAM = 1;
  const SOCK_NONBLOCK = 0o4000;
  const SOCK_CLOEXEC = 0o2000000;
  return inNamespaces({ net: netns }, () => check(native.socket(AF[family], SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket', netns));
}

/**
 * Sends one datagram to a unix socket, as sd_notify(3) wants it. A path that begins with `@` is an abstract one.
 */
export function sendDatagram(path: string, text: string): void {
  const AF_UNIX = 1;
  const SOCK_DGRAM = 2;
  const SOCK_CLOEXEC = 0o2000000;
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path);
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), name]);
  const fd = check(native.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket', path);
  try {
    check(native.connect(fd, address, address.length), 'connect', path);
    const data = Buffer.from(text);
    const MSG_NOSIGNAL = 0x4000;
    check(Number(native.send(fd, data, data.length, MSG_NOSIGNAL)), 'send', path);
  } finally {
    closeSync(fd);
  }
}

/** A unix stream socket that is connected to nothing. The caller closes it. */
export function unixSocket(): number {
  const AF_UNIX = 1;
  const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;
  return check(native.socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0), 'socket', 'AF_UNIX');
}

/**
 * Connects to a unix socket that keeps packets apart (SOCK_SEQPACKET) without ever waiting. The descriptor does not block
 * and is the caller's to close.
 * @throws {SysError} `EAGAIN` while too many wait to be accepted, `ECONNREFUSED`, `ENOENT`.
 */
export function connectPackets(path: string): number {
  const AF_UNIX = 1;
  const SOCK_SEQPACKET_NONBLOCK_CLOEXEC = 5 | 0o4000 | 0o2000000;
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(path), Buffer.from([0])]);
  const fd = check(native.socket(AF_UNIX, SOCK_SEQPACKET_NONBLOCK_CLOEXEC, 0), 'socket', path);
  try {
    check(native.connect(fd, address, address.length), 'connect', path);
    return fd;
  } catch (err) {
    closeSync(fd);
    throw err;
  }
}

/** Takes what the kernel holds for a packet socket, without waiting. */
export function receivePackets(fd: number): Buffer[] {
  const MSG_DONTWAIT = 0x40;
  const buffer = Buffer.alloc(65_536);
  const packets: Buffer[] = [];
  for (;;) {
    const length = Number(native.recv(fd, buffer, buffer.length, MSG_DONTWAIT));
    if (length <= 0) return packets;
    packets.push(Buffer.from(buffer.subarray(0, length)));
  }
}
