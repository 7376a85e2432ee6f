import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { AuthorityFilter, FilteredSocket } from './authority.ts';

const PREFACE_BYTES = 24;
const FRAME_HEAD_BYTES = 9;
const HEADERS = 0x1;
const SETTINGS = 0x4;
const PING = 0x6;
const CONTINUATION = 0x9;
const ACK = 0x1;
const END_HEADERS = 0x4;

/** SETTINGS without any setting (RFC 9113, 6.5): a Go client sends no request before it has seen the server's. */
const EMPTY_SETTINGS = Buffer.from([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);

/** What a client may send before its first request is whole. */
const MAX_BYTES = 131_072;

/**
 * Finds out whether a new client needs the `AuthorityFilter`, and hands its connection to `inject`: the socket as it is,
 * or behind the filter. The filter costs a quarter of a millisecond for each call (measured: 0.85 against 0.55), which
 * only the clients that need it shall pay. For this the first request is read before the HTTP/2 session begins, which
 * takes a greeting in the session's place; its acknowledgement is taken out of what the session will read.
 */
export function greet(socket: Socket, inject: (connection: Duplex) => void): void {
  let read: Buffer = Buffer.alloc(0);
  const onData = (chunk: Buffer): void => {
    read = read.length === 0 ? chunk : Buffer.concat([read, chunk]);
    const opening = look(read);
    if (opening === undefined && read.length <= MAX_BYTES) return;
    socket.off('data', onData);
    socket.off('error', onError);
    socket.pause();
    if (opening === undefined) {
      socket.destroy();
      return;
    }
    const { bytes, hasRequest } = opening;
    socket.unshift(bytes);
    inject(hasRequest && isClean(bytes) ? socket : new FilteredSocket(socket));
  };
  const onError = (): void => {
    socket.destroy();
  };
  socket.on('data', onData);
  socket.on('error', onError);
  socket.write(EMPTY_SETTINGS);
}

interface Opening {
  /** All that was read, without the acknowledgement of the greeting. */
  readonly bytes: Buffer;
  readonly hasRequest: boolean;
}

/**
 * The opening once it is whole: the acknowledgement and the first request's headers, or a PING in place of the latter,
 * whose answer must not wait for a request. `undefined` while more has to come.
 */
function look(read: Buffer): Opening | undefined {
  let acknowledged: number | undefined;
  let inHeaders = false;
  let hasRequest = false;
  let impatient = false;
  for (let at = PREFACE_BYTES; at + FRAME_HEAD_BYTES <= read.length; ) {
    const end = at + FRAME_HEAD_BYTES + read.readUIntBE(at, 3);
    if (end > read.length) break;
    const type = read.readUInt8(at + 3);
    const flags = read.readUInt8(at + 4);
    if (type === SETTINGS && (flags & ACK) !== 0) acknowledged ??= at;
    if (type === PING) impatient = true;
    if (type === HEADERS || (type === CONTINUATION && inHeaders)) {
      inHeaders = (flags & END_HEADERS) === 0;
      hasRequest ||= !inHeaders;
    }
    at = end;
  }
  if (acknowledged === undefined || !(hasRequest || impatient)) return undefined;
  const rest = read.subarray(acknowledged + FRAME_HEAD_BYTES);
  return { bytes: Buffer.concat([read.subarray(0, acknowledged), rest]), hasRequest };
}

/** The filter would change nothing, now or later: a client's later requests say the same by an index. */
function isClean(bytes: Buffer): boolean {
  const filter = new AuthorityFilter();
  return Buffer.concat([...filter.push(bytes), ...filter.end()]).equals(bytes);
}
