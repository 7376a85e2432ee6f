import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { type Duplex, PassThrough } from 'node:stream';
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from 'node:zlib';
import { SPDY_DICTIONARY } from '../../server/stream/spdy-dictionary.ts';
import { controlFrame, dataHeader, FRAME, FrameReader, numbersFrame } from '../../server/stream/spdy-frame.ts';

export interface ConnectOptions {
  /** Of `X-Stream-Protocol-Version`, one header each. */
  readonly protocols?: readonly string[];
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string | string[]>>;
  /** Of TLS: `ca`, `cert`, `key`, … */
  readonly tls?: Readonly<Record<string, unknown>>;
}

/** An answer that is no upgrade. */
export class Refused extends Error {
  readonly code: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;

  constructor(code: number, headers: IncomingMessage['headers'], body: string) {
    super(`refused: ${code} ${body}`);
    this.code = code;
    this.headers = headers;
    this.body = body;
  }
}

/** Asks for SPDY; resolves with the connection, or rejects with `Refused`. */
export async function upgrade(
  url: string,
  { protocols = [], method = 'POST', headers = {}, tls = {} }: ConnectOptions = {},
): Promise<[Duplex, Buffer, IncomingMessage]> {
  const send = url.startsWith('https:') ? httpsRequest : httpRequest;
  const request = send(url, {
    method,
    agent: false,
    headers: {
      Connection: 'Upgrade',
      Upgrade: 'SPDY/3.1',
      ...(protocols.length > 0 && { 'X-Stream-Protocol-Version': [...protocols] }),
      ...headers,
    },
    ...tls,
  });
  request.end();
  return await new Promise((resolve, reject) => {
    request.once('error', reject);
    request.once('upgrade', (response: IncomingMessage, socket: Duplex, head: Buffer) => resolve([socket, head, response]));
    request.once('response', (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (text: string) => {
        body += text;
      });
      response.once('end', () => reject(new Refused(response.statusCode ?? 0, response.headers, body)));
    });
  });
}

/** One stream as its client sees it. `received` is what the server sends; it just ends at a reset, which `wasReset` tells. */
export class ClientStream {
  readonly id: number;
  readonly received = new PassThrough({ highWaterMark: 1024 * 1024 });
  /** Resolves when the server has taken the stream; rejects when it has reset it instead. */
  readonly accepted: Promise<void>;
  wasReset = false;
  readonly #client: SpdyClient;
  readonly #accept: { resolve: () => void; reject: (err: Error) => void };

  constructor(client: SpdyClient, id: number) {
    this.#client = client;
    this.id = id;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => {});
    this.accepted = promise;
    this.#accept = { resolve, reject };
  }

  onReply = (): void => this.#accept.resolve();

  onReset(status: number): void {
    this.wasReset = true;
    this.#accept.reject(new Error(`stream ${this.id} was reset with ${status}`));
    this.received.end();
  }

  /** Resolves when there is room for more. */
  async write(bytes: string | Buffer): Promise<void> {
    const chunk = Buffer.from(bytes);
    const { socket } = this.#client;
    socket.cork();
    socket.write(dataHeader(this.id, chunk.length, false));
    const room = socket.write(chunk);
    socket.uncork();
    if (!room) await Promise.race([once(socket, 'drain'), once(socket, 'close')]);
  }

  end(): void {
    this.#client.socket.write(dataHeader(this.id, 0, true));
  }

  reset(): void {
    this.#client.socket.write(numbersFrame(FRAME.RST_STREAM, this.id, 5));
  }

  /** All that the server sends on it, to its end. */
  async text(): Promise<string> {
    const parts: Buffer[] = [];
    for await (const part of this.received) parts.push(part as Buffer);
    return Buffer.concat(parts).toString();
  }
}

/** A SPDY/3.1 client with one zlib stream for its headers, as Go's has, and no opinions: it can be made to misbehave. */
export class SpdyClient {
  readonly socket: Duplex;
  /** What the server chose. */
  readonly protocol: string;
  /** Resolves when the connection is closed. */
  readonly closed: Promise<void>;
  readonly streams = new Map<number, ClientStream>();
  pongs = 0;
  pings = 0;
  goAway: number | undefined;
  readonly #deflate: Deflate = createDeflate({ dictionary: SPDY_DICTIONARY });
  readonly #inflate: Inflate = createInflate({ dictionary: SPDY_DICTIONARY }).resume();
  #nextId = 1;

  /** `socket` may be a tunnel. */
  constructor(socket: Duplex, head: Buffer, protocol: string) {
    this.socket = socket.setMaxListeners(0);
    // Inflated only to see that the server's zlib stream is whole.
    this.#inflate.on('error', () => socket.destroy());
    this.protocol = protocol;
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        for (const { received } of this.streams.values()) received.end();
        this.#deflate.close();
        this.#inflate.close();
        resolve();
      });
    });
    const reader = new FrameReader({
      data: (id, piece, fin) => {
        const received = this.streams.get(id)?.received;
        if (received === undefined) return;
        if (piece.length > 0 && !received.write(piece)) {
          socket.pause();
          received.once('drain', () => socket.resume());
        }
        if (fin) received.end();
      },
      control: (type, _flags, payload) => this.#control(type, payload),
    });
    socket.on('error', () => {});
    socket.on('end', () => socket.end());
    socket.on('data', (bytes: Buffer) => reader.push(bytes));
    if (head.length > 0) reader.push(head);
  }

  static async connect(url: string, options: ConnectOptions = {}): Promise<SpdyClient> {
    const [socket, head, response] = await upgrade(url, options);
    return new SpdyClient(socket, head, String(response.headers['x-stream-protocol-version'] ?? ''));
  }

  /** Opens a stream without waiting for the server's word. */
  async open(headers: Readonly<Record<string, string>>): Promise<ClientStream> {
    const id = this.#nextId;
    this.#nextId += 2;
    const stream = new ClientStream(this, id);
    this.streams.set(id, stream);
    this.socket.write(await this.synStream(id, headers));
    return stream;
  }

  /** The frame that opens a stream. */
  async synStream(id: number, headers: Readonly<Record<string, string>>): Promise<Buffer> {
    const lowerCase = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])); // Go's server takes no other
    const block = await this.#compress(headerBlock(lowerCase));
    const payload = Buffer.alloc(10 + block.length);
    payload.writeUInt32BE(id, 0);
    block.copy(payload, 10);
    return controlFrame(FRAME.SYN_STREAM, payload);
  }

  ping(id = 1): void {
    this.socket.write(numbersFrame(FRAME.PING, id));
  }

  destroy(): void {
    this.socket.destroy();
  }

  async #compress(block: Buffer): Promise<Buffer> {
    this.#deflate.write(block);
    await new Promise<void>((resolve) => {
      this.#deflate.flush(constants.Z_SYNC_FLUSH, resolve);
    });
    const parts: Buffer[] = [];
    for (let part = this.#deflate.read(); part !== null; part = this.#deflate.read()) parts.push(part);
    return Buffer.concat(parts);
  }

  #control(type: number, payload: Buffer): void {
    if (type === FRAME.SYN_REPLY) {
      this.#inflate.write(Buffer.from(payload.subarray(4)));
      this.streams.get(payload.readUInt32BE(0))?.onReply();
    } else if (type === FRAME.RST_STREAM) {
      this.streams.get(payload.readUInt32BE(0))?.onReset(payload.readUInt32BE(4));
    } else if (type === FRAME.PING) {
      const id = payload.readUInt32BE(0);
      if (id % 2 === 1) this.pongs += 1;
      else {
        this.pings += 1;
        this.socket.write(numbersFrame(FRAME.PING, id));
      }
    } else if (type === FRAME.GOAWAY) {
      this.goAway = payload.readUInt32BE(4);
    }
  }
}

/** Names and values behind their lengths; SPDY 3.1, 2.6.10. */
export function headerBlock(headers: Readonly<Record<string, string>>): Buffer {
  const entries = Object.entries(headers);
  const number = (value: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    return bytes;
  };
  const text = (value: string): Buffer[] => [number(Buffer.byteLength(value)), Buffer.from(value)];
  return Buffer.concat([number(entries.length), ...entries.flatMap(([name, value]) => [...text(name), ...text(value)])]);
}
