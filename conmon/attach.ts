import { readdirSync, readlinkSync } from 'node:fs';
import { sleep } from '#base/abort.ts';
import { CriError, isErrno } from '#base/errors.ts';
import { connectPacketSocket, type PacketSocket } from '#base/packet-socket.ts';
import { SysError, unblockDescriptorOf } from '#base/sys.ts';

/** Which of the container's streams a packet belongs to. A terminal has stdout alone. */
export type AttachedStream = 'stdout' | 'stderr';

/** The first byte of each packet. Source: `stdpipe_t` in conmon's utils.h. */
const STREAMS: Readonly<Record<number, AttachedStream>> = { 2: 'stdout', 3: 'stderr' };

/** conmon cuts what is longer than 32 KiB off a packet; half of that leaves room for other versions. */
const PACKET_BYTES = 16 * 1024;

/**
 * For a terminal conmon writes a packet whole before it reads output again. A program that answers as much as it reads,
 * and waits for its output to be taken, would then wait for ever, as conmon would: so small packets, and `unblock`.
 */
const TERMINAL_PACKET_BYTES = 1024;

/** conmon's queue of clients that wait to be accepted holds ten. */
const BUSY_MS = 10_000;
const BUSY_LOOK_MS = 10;

export interface AttachOptions {
  /** With a terminal: the monitor's pid. */
  readonly terminalOf: number | undefined;
}

/**
 * One client of a monitor's attach socket. The monitor writes to each of its clients in turn and waits for each: a client
 * that stops reading stops the monitor, and with it the container and its log, so whoever holds one of a container reads
 * it to the end whatever happens. (An exec's monitor serves that exec alone, so there `pause` is the way to hold it back.)
 */
export class Attached implements Disposable {
  readonly #packets: PacketSocket;
  #terminalOf: number | undefined;
  readonly #packetBytes: number;
  /** Fulfils when the monitor has closed its side, after all output; or when this side was disposed of. */
  readonly closed: Promise<void>;

  constructor(packets: PacketSocket, onOutput: (stream: AttachedStream, bytes: Buffer) => void, { terminalOf }: AttachOptions) {
    const { socket } = packets;
    this.#packets = packets;
    this.#terminalOf = terminalOf;
    this.#packetBytes = terminalOf !== undefined ? TERMINAL_PACKET_BYTES : PACKET_BYTES;
    const take = (packet: Buffer): void => {
      const stream = STREAMS[packet[0] ?? 0];
      if (stream !== undefined && packet.length > 1) onOutput(stream, packet.subarray(1));
    };
    socket.on('data', take);
    socket.on('error', () => {}); // ECONNRESET where the monitor went with input unread; `close` follows
    socket.on('end', () => socket.destroy());
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        packets.rest().forEach(take);
        packets.release();
        resolve();
      });
    });
  }

  /** Hands input over, packet by packet. Resolves when the monitor has taken it, or is gone. */
  async write(bytes: Buffer): Promise<void> {
    if (this.#terminalOf !== undefined && unblockTerminal(this.#terminalOf)) this.#terminalOf = undefined;
    for (let at = 0; at < bytes.length && this.#packets.socket.writable; at += this.#packetBytes) {
      await new Promise<void>((resolve) => this.#packets.socket.write(bytes.subarray(at, at + this.#packetBytes), () => resolve()));
    }
  }

  /** No more input: unless the monitor was told to leave the container's stdin open, that ends too. */
  endInput(): void {
    if (this.#packets.socket.writable) this.#packets.socket.end();
  }

  /** Stops reading: output that is there already still comes. */
  pause(): void {
    this.#packets.socket.pause();
  }

  resume(): void {
    this.#packets.socket.resume();
  }

  [Symbol.dispose](): void {
    this.#packets.release();
    this.#packets.socket.destroy();
  }
}

/**
 * Attaches to the monitor that listens at `path`: from now on its output comes.
 * @throws {CriError} `failedPrecondition` where no monitor listens.
 */
export async function attachTo(
  path: string,
  onOutput: (stream: AttachedStream, bytes: Buffer) => void,
  { signal, ...options }: AttachOptions & { signal: AbortSignal },
): Promise<Attached> {
  const deadline = performance.now() + BUSY_MS;
  for (;;) {
    signal.throwIfAborted();
    try {
      return new Attached(connectPacketSocket(path), onOutput, options);
    } catch (err) {
      if (!(err instanceof SysError)) throw err;
      const busy = isErrno(err, 'EAGAIN', 'EWOULDBLOCK'); // one number, two names
      if (!busy || performance.now() > deadline) {
        const why = busy ? 'does not accept clients' : 'is gone';
        throw new CriError('failedPrecondition', `attach: the monitor that listened at ${path} ${why}`, { cause: err });
      }
      await sleep(BUSY_LOOK_MS, signal);
    }
  }
}

/**
 * conmon knows what to do when a terminal takes no more input, but only hears of it from one that does not block, which
 * the terminal it is handed does. Where we may not change that, it stays as it is.
 * @returns false as long as the monitor has no terminal yet.
 */
function unblockTerminal(monitorPid: number): boolean {
  try {
    const directory = `/proc/${monitorPid}/fd`;
    const fd = readdirSync(directory).find((name) => readlinkSync(`${directory}/${name}`).endsWith('/ptmx'));
    if (fd === undefined) return false;
    unblockDescriptorOf(monitorPid, Number(fd));
    return true;
  } catch (err) {
    if (err instanceof SysError || isErrno(err, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM')) return true; // gone, or not ours to change
    throw err;
  }
}
