import type { Duplex } from 'node:stream';
import { Gate } from './gate.ts';
import { IdleClock } from './idle-clock.ts';
import { controlFrame, dataHeader, FLAG_FIN, FRAME, FrameReader, type FrameSink, MAX_STREAM_ID, numbersFrame, RESET, SpdyError } from './spdy-frame.ts';
import { EMPTY_BLOCK, HeaderReader, type Headers } from './spdy-headers.ts';
import { AHEAD, LITTLE_AHEAD, type Link, SpdyStream } from './spdy-stream.ts';

/** Open at one time; a forwarded connection takes two. */
const MAX_STREAMS = 1_000;
/** With that many open, more streams get little room each. */
const MANY_STREAMS = 32;
/** A piece of data in one frame: clients reserve memory for a whole frame. */
const MAX_FRAME_BYTES = 256 * 1024;
/** Of answers and resets that wait for a client that reads nothing. */
const MAX_ANSWER_BYTES = 1024 * 1024;
/** Nothing tells of a peer's end while its socket is not read, so it is written to. */
const PROBE_MS = 1_000;
/** How long a client may take to close when all has been sent. */
const LINGER_MS = 10_000;

/** What a connection tells its owner. */
export interface SpdyEvents {
  /** A client opens a stream; false refuses it. The answer comes first: nothing may be written before this has returned. */
  readonly stream: (stream: SpdyStream) => boolean;
  /** No data has passed for the idle timeout. */
  readonly idle: () => void;
  /** The connection has ended, once; with what the client did wrong, if it did. The streams are destroyed by now. */
  readonly closed: (err: SpdyError | undefined) => void;
}

/** The server's side of a SPDY/3.1 connection, as the clients of Kubernetes speak it: they open all streams. */
export class SpdyConnection {
  readonly #transport: Duplex;
  readonly #events: SpdyEvents;
  readonly #gate: Gate;
  readonly #reader: FrameReader;
  readonly #headers = new HeaderReader();
  readonly #streams = new Map<number, SpdyStream>();
  readonly #idle: IdleClock;
  readonly #link: Link;
  #probe: NodeJS.Timeout | undefined;
  #blocked = 0;
  #answerBytes = 0;
  #lastId = 0;
  #replied = false;
  #closing = false;
  #failure: SpdyError | undefined;

  /** `head` is what the client had already sent. The transport is the connection's from now on. */
  constructor(transport: Duplex, head: Buffer, idleTimeoutMs: number, events: SpdyEvents) {
    this.#transport = transport;
    this.#events = events;
    this.#gate = new Gate(transport);
    const sink: FrameSink = { data: (id, piece, fin) => this.#data(id, piece, fin), control: (type, flags, payload) => this.#control(type, flags, payload) };
    this.#reader = new FrameReader(sink);
    this.#link = {
      write: (stream, bytes, fin, done) => this.#write(stream, bytes, fin, done),
      block: () => this.#block(),
      unblock: () => this.#unblock(),
      reset: (stream) => this.#reset(stream.id, RESET.CANCEL),
      drop: (stream) => this.#streams.delete(stream.id),
    };
    this.#idle = new IdleClock(idleTimeoutMs, { idle: events.idle, cutOff: () => transport.destroy() });
    transport.on('data', (bytes: Buffer) => this.#read(bytes));
    transport.on('end', () => transport.destroy());
    transport.on('error', () => {}); // `close` follows
    transport.on('close', () => this.#teardown());
    if (head.length > 0) this.#read(head);
  }

  /** Tells the client that this is all, and closes once what is written has gone out. */
  close(): void {
    if (this.#closing || this.#transport.destroyed) return;
    this.#closing = true;
    this.#send(numbersFrame(FRAME.GOAWAY, this.#lastId, 0));
    this.#transport.resume(); // for its end to be seen; and to close with something unread would cut off what was sent
    this.#transport.end(() => {
      const linger = setTimeout(() => this.#transport.destroy(), LINGER_MS);
      this.#transport.once('close', () => clearTimeout(linger));
    });
  }

  #read(bytes: Buffer): void {
    if (this.#failure !== undefined || this.#closing) return;
    try {
      this.#reader.push(bytes);
    } catch (err) {
      if (!(err instanceof SpdyError)) throw err;
      this.#fail(err);
    }
  }

  #fail(err: SpdyError): void {
    this.#failure ??= err;
    this.#transport.write(numbersFrame(FRAME.GOAWAY, this.#lastId, 1));
    this.#transport.destroy();
  }

  #teardown(): void {
    this.#idle.stop();
    clearInterval(this.#probe);
    for (const stream of this.#streams.values()) stream.cutOff();
    this.#streams.clear();
    this.#events.closed(this.#failure);
  }

  #data(id: number, piece: Buffer, fin: boolean): void {
    this.#idle.refresh();
    const stream = this.#streams.get(id);
    if (stream === undefined) return; // closed a moment ago: the client may not know yet
    stream.receive(piece, fin);
  }

  #control(type: number, flags: number, payload: Buffer): void {
    const needs = (bytes: number): void => {
      if (payload.length < bytes) throw new SpdyError(`control frame of type ${type} has ${payload.length} bytes, ${bytes} are needed`);
    };
    switch (type) {
      case FRAME.SYN_STREAM:
        needs(10);
        this.#synStream(payload.readUInt32BE(0) & MAX_STREAM_ID, this.#headers.read(payload.subarray(10)), (flags & FLAG_FIN) !== 0);
        return;
      case FRAME.RST_STREAM:
        needs(8);
        this.#streams.get(payload.readUInt32BE(0) & MAX_STREAM_ID)?.cutOff();
        return;
      case FRAME.PING:
        needs(4);
        if ((payload.readUInt32BE(0) & 1) === 1) this.#send(controlFrame(FRAME.PING, payload.subarray(0, 4))); // odd ones are the client's own
        return;
      case FRAME.HEADERS:
        needs(4);
        this.#headers.read(payload.subarray(4)); // nobody sends any; the zlib stream goes on through them
        return;
      default: // SETTINGS, WINDOW_UPDATE, and GOAWAY, after which streams that are open go on
    }
  }

  #synStream(id: number, headers: Headers, fin: boolean): void {
    this.#idle.refresh();
    if (id % 2 === 0 || id <= this.#lastId) throw new SpdyError(`stream ${id} after stream ${this.#lastId}`);
    this.#lastId = id;
    if (this.#streams.size >= MAX_STREAMS) {
      this.#reset(id, RESET.REFUSED_STREAM);
      return;
    }
    const stream = new SpdyStream(this.#link, id, headers, this.#streams.size < MANY_STREAMS ? AHEAD : LITTLE_AHEAD);
    this.#streams.set(id, stream);
    if (!this.#events.stream(stream)) {
      stream.cutOff();
      this.#reset(id, RESET.PROTOCOL_ERROR);
      return;
    }
    this.#reply(id);
    if (fin) stream.receive(Buffer.alloc(0), true);
  }

  #reply(id: number): void {
    const block = this.#replied ? EMPTY_BLOCK.later : EMPTY_BLOCK.first;
    this.#replied = true;
    const payload = Buffer.alloc(4 + block.length);
    payload.writeUInt32BE(id, 0);
    block.copy(payload, 4);
    this.#send(controlFrame(FRAME.SYN_REPLY, payload));
  }

  #reset(id: number, status: number): void {
    this.#send(numbersFrame(FRAME.RST_STREAM, id, status));
  }

  /** A client can make us answer without ever reading the answers. */
  #send(frame: Buffer): void {
    if (this.#transport.destroyed || this.#transport.writableEnded) return;
    if (!this.#transport.writableNeedDrain) this.#answerBytes = 0;
    this.#answerBytes += frame.length;
    this.#transport.write(frame);
    if (this.#answerBytes <= MAX_ANSWER_BYTES) return;
    this.#failure ??= new SpdyError('client makes us answer and does not read the answers');
    this.#transport.destroy();
  }

  #write(stream: SpdyStream, bytes: Buffer, fin: boolean, done: () => void): void {
    this.#gate.pass(() => {
      if (this.#transport.destroyed || this.#transport.writableEnded || stream.destroyed) {
        done(); // nobody is left to take it
        return;
      }
      this.#idle.refresh();
      this.#transport.cork();
      let offset = 0;
      do {
        const piece = bytes.length <= MAX_FRAME_BYTES ? bytes : bytes.subarray(offset, offset + MAX_FRAME_BYTES);
        offset += piece.length;
        const flushed = offset >= bytes.length ? () => done() : undefined;
        this.#transport.write(dataHeader(stream.id, piece.length, fin), piece.length > 0 ? undefined : flushed);
        if (piece.length > 0) this.#transport.write(piece, flushed);
      } while (offset < bytes.length);
      this.#transport.uncork();
    });
  }

  #block(): void {
    this.#blocked += 1;
    if (this.#blocked > 1) return;
    this.#transport.pause();
    this.#probe = setInterval(() => this.#send(numbersFrame(FRAME.PING, 2)), PROBE_MS);
  }

  #unblock(): void {
    this.#blocked -= 1;
    if (this.#blocked > 0) return;
    clearInterval(this.#probe);
    this.#transport.resume();
  }
}
