import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { Duplex, PassThrough } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { constants, deflateSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { accept, type Ticket } from '../../../../server/stream/accept.ts';
import type { PortConnector, RemoteSession } from '../../../../server/stream/session.ts';
import { SPDY_DICTIONARY } from '../../../../server/stream/spdy-dictionary.ts';
import { controlFrame, dataHeader, numbersFrame } from '../../../../server/stream/spdy-frame.ts';
import { headerBlock } from '../../../fakes/spdy-client.ts';

/**
 * What a client may send, in any order and cut anywhere, to all kinds of sessions. 60,000 frames in all each time;
 * FUZZ_FRAMES=1000000 takes some ten seconds.
 */
const FRAMES = Number(process.env.FUZZ_FRAMES ?? 60_000);
const FRAMES_PER_RUN = 200;
/** Of the tests below. */
const KINDS_OF_SESSION = 6;
const all = { minLength: FRAMES_PER_RUN, maxLength: FRAMES_PER_RUN, size: 'max' } as const;
const options = { numRuns: Math.ceil(FRAMES / FRAMES_PER_RUN / KINDS_OF_SESSION), endOnFailure: false };
/** A read of 64 KiB, one piece of data, and what a connection may owe in answers. */
const MAX_QUEUED_BYTES = 4 * 1024 * 1024;

/** A client's connection in memory. `reads` false is a client that takes nothing. */
class Transport extends Duplex {
  mostQueued = 0;
  /** The HTTP answer. */
  answer = '';
  readonly #reads: boolean;

  constructor(reads: boolean) {
    super({ allowHalfOpen: true });
    this.#reads = reads;
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.answer ||= chunk.toString('latin1');
    this.mostQueued = Math.max(this.mostQueued, this.writableLength);
    if (this.#reads) done();
  }

  setNoDelay = (): this => this;
  setTimeout = (): this => this;
}

/** Echoes; and takes nothing in when it is slow. */
const handler =
  (slow: boolean) =>
  async ({ stdin, stdout, signal }: RemoteSession): Promise<number> => {
    if (!slow && stdin !== undefined && stdout !== undefined) stdin.pipe(stdout, { end: false });
    await new Promise((resolve) => {
      stdin?.once('end', resolve);
      signal.addEventListener('abort', resolve, { once: true });
    });
    return 0;
  };

type Kind = 'exec' | 'portforward';

/** Feeds the pieces to a session as long as it reads, then goes away, and waits for everything to end. */
async function attack(kind: Kind, given: Readonly<Record<string, string>>, reads: readonly Buffer[], mood: { reads: boolean; slow: boolean }): Promise<void> {
  const transport = new Transport(mood.reads);
  const connections = new Set<Duplex>();
  const connect: PortConnector = async (_port, inbox) => {
    const pod = new PassThrough({ allowHalfOpen: true });
    pod.on('data', (piece: Buffer) => {
      if (!inbox.callback(piece.length, Buffer.from(piece))) pod.pause();
    });
    pod.pause();
    connections.add(pod);
    pod.once('close', () => connections.delete(pod));
    return pod;
  };
  const ticket: Ticket =
    kind === 'exec'
      ? { kind, streams: { stdin: true, stdout: true, stderr: false, tty: true }, handler: handler(mood.slow) }
      : { kind, pod: 'p', ports: [80, 443], connect };
  const limits = { idleTimeoutMs: 60_000, creationTimeoutMs: 60_000 };
  const headers = { ...given }; // of this request alone: they are changed on the way
  const request = { method: 'GET', url: '/', headers } as unknown as IncomingMessage;
  const live = accept({ request, socket: transport as unknown as Socket, head: Buffer.alloc(0), limits, report: () => {} }, ticket);
  if (live === undefined || !('done' in live)) throw new Error('not accepted');
  expect(transport.answer).toContain(
    `-Protocol${headers.upgrade === 'websocket' ? '' : '-Version'}: ${given['sec-websocket-protocol'] ?? given['x-stream-protocol-version']}\r\n`,
  );
  for (const piece of reads) {
    if (transport.destroyed || transport.readableEnded) break;
    if (transport.push(piece)) continue;
    await turn();
    if (transport.isPaused()) break;
  }
  await turn();
  transport.destroy();
  await live.done;
  for (let turns = 0; connections.size > 0 && turns < 1_000; turns += 1) await turn();
  expect(connections.size).toBe(0);
  expect(transport.mostQueued).toBeLessThan(MAX_QUEUED_BYTES);
}

function* pieces(bytes: Buffer, length: number, lengthLater = length): Generator<Buffer> {
  for (let offset = 0, end = 0; offset < bytes.length; offset = end) {
    end = offset + (offset < 4_096 ? length : lengthLater);
    yield bytes.subarray(offset, end);
  }
}

/** What a socket reads: small pieces of this length at first, then as large as they come. */
const cut = (bytes: Buffer, length: number): Buffer[] => [...pieces(bytes, length, 65_536)];

const mood = fc.record({ reads: fc.boolean(), slow: fc.boolean() });
const pieceLength = fc.oneof(fc.constant(65_536), fc.integer({ min: 1, max: 100 }));
const junk = randomBytes(70_000);
const someBytes = fc.oneof({ weight: 50, arbitrary: fc.nat(64) }, { weight: 1, arbitrary: fc.nat(70_000) }).map((length) => junk.subarray(0, length));

const headerSets = [
  ...['error', 'stdin', 'stdout', 'stderr', 'resize', 'data', 'nonsense'].map((streamtype) => ({ streamtype })),
  ...['1', '2', '3'].flatMap((requestid) => ['data', 'error'].map((streamtype) => ({ streamtype, port: '80', requestid }))),
  { streamtype: 'data', port: '99999' },
  {},
].map(headerBlock);
/** Each a block that stands for itself: stored, not compressed, so that it refers to nothing. */
const storedBlock = (block: Buffer): Buffer => {
  const whole = deflateSync(block, { dictionary: SPDY_DICTIONARY, level: 0, finishFlush: constants.Z_SYNC_FLUSH });
  return whole.subarray(6);
};
const zlibHeader = deflateSync(Buffer.alloc(0), { dictionary: SPDY_DICTIONARY, finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, 6);
const blocks = headerSets.map(storedBlock);

type Step = { readonly open: number; readonly skip: number; readonly fin: boolean } | { readonly bytes: Buffer };
const streamId = fc.oneof(fc.integer({ min: 1, max: 41 }), fc.nat(0x7fffffff));
const spdyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 600,
    arbitrary: fc.record({ open: fc.nat(blocks.length - 1), skip: fc.oneof({ weight: 2000, arbitrary: fc.constant(0) }, fc.nat(2)), fin: fc.boolean() }),
  },
  {
    weight: 1200,
    arbitrary: fc
      .tuple(streamId, someBytes, fc.boolean())
      .map(([id, payload, fin]) => ({ bytes: Buffer.concat([dataHeader(id, payload.length, fin), payload]) })),
  },
  { weight: 200, arbitrary: fc.tuple(streamId, fc.nat(20)).map(([id, status]) => ({ bytes: numbersFrame(3, id, status) })) },
  { weight: 300, arbitrary: fc.nat().map((id) => ({ bytes: numbersFrame(6, id) })) },
  { weight: 100, arbitrary: fc.constantFrom(4, 7, 9, 77).map((type) => ({ bytes: numbersFrame(type, 0, 0) })) },
  // Rarely, since the connection ends with it.
  {
    weight: 2,
    arbitrary: fc
      .tuple(fc.nat(255), fc.nat(255), fc.uint8Array({ maxLength: 40 }))
      .map(([type, flags, payload]) => ({ bytes: controlFrame(type, Buffer.from(payload), flags) })),
  },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 40 }).map((bytes) => ({ bytes: Buffer.from(bytes) })) },
);

/** The bytes of a client that opens streams one after the other, mostly with numbers that go up. */
function spdyBytes(steps: readonly Step[]): Buffer {
  let id = 1;
  let begun = false;
  const frames = steps.map((step) => {
    if ('bytes' in step) return step.bytes;
    const block = blocks[step.open] as Buffer;
    const payload = Buffer.concat([Buffer.alloc(10), begun ? block : Buffer.concat([zlibHeader, block])]);
    begun = true;
    payload.writeUInt32BE(id + step.skip, 0);
    id += 2;
    return controlFrame(1, payload, step.fin ? 1 : 0);
  });
  return Buffer.concat(frames);
}

const spdyHeaders = (kind: Kind): Record<string, string> => ({
  connection: 'Upgrade',
  upgrade: 'SPDY/3.1',
  'x-stream-protocol-version': kind === 'exec' ? 'v4.channel.k8s.io' : 'portforward.k8s.io',
});

test.each<Kind>(['exec', 'portforward'])('no frames of SPDY crash, hang or bloat a session: %s', { timeout: 600_000 }, async (kind) => {
  await fc.assert(
    fc.asyncProperty(fc.array(spdyStep, all), pieceLength, mood, (steps, length, how) => attack(kind, spdyHeaders(kind), cut(spdyBytes(steps), length), how)),
    options,
  );
});

/** A frame of RFC 6455, section 5.2, with its mask all zeros. */
function webSocketFrame(opcode: number, payload: Buffer, { fin = true, masked = true, rsv = 0 } = {}): Buffer {
  const head = Buffer.alloc(payload.length < 126 ? 2 : payload.length < 65_536 ? 4 : 10);
  head[0] = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
  head[1] = (masked ? 0x80 : 0) | (head.length === 2 ? payload.length : head.length === 4 ? 126 : 127);
  if (head.length === 4) head.writeUInt16BE(payload.length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(payload.length), 2);
  return Buffer.concat([head, masked ? Buffer.alloc(4) : Buffer.alloc(0), payload]);
}

const channel = fc.oneof(fc.constantFrom(0, 1, 2, 3, 4, 48, 255), fc.nat(255));
const webSocketStep = fc.oneof(
  {
    weight: 2000,
    arbitrary: fc.tuple(channel, someBytes, fc.constantFrom(1, 2)).map(([number, bytes, opcode]) => {
      const payload = Buffer.concat([Buffer.from([number]), opcode === 2 ? bytes : Buffer.from(bytes.toString('base64'))]);
      return webSocketFrame(opcode === 1 && number > 127 ? 2 : opcode, payload);
    }),
  },
  { weight: 200, arbitrary: fc.constant(webSocketFrame(2, Buffer.alloc(0))) },
  { weight: 300, arbitrary: someBytes.map((bytes) => webSocketFrame(9, bytes.subarray(0, 125))) },
  { weight: 100, arbitrary: someBytes.map((bytes) => webSocketFrame(10, bytes.subarray(0, 125))) },
  {
    weight: 100,
    arbitrary: fc.tuple(someBytes, someBytes).map(([a, b]) => Buffer.concat([webSocketFrame(2, a, { fin: false }), webSocketFrame(0, b)])),
  },
  // Rarely, since the connection ends with it.
  {
    weight: 2,
    arbitrary: fc
      .tuple(fc.nat(15), someBytes, fc.boolean(), fc.boolean(), fc.nat(7))
      .map(([opcode, bytes, fin, masked, rsv]) => webSocketFrame(opcode, bytes, { fin, masked, rsv })),
  },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)) },
);

/** SPDY in messages that care nothing for its frames, with pings between them, and rarely with something else. */
const tunnelled = fc
  .tuple(fc.array(spdyStep, all), fc.integer({ min: 1, max: 4_096 }), fc.array(webSocketStep, { maxLength: 1 }), fc.nat(1_000))
  .map(([steps, length, strange, at]) => {
    const messages = Array.from(pieces(spdyBytes(steps), length), (piece) => Buffer.concat([webSocketFrame(2, piece), webSocketFrame(9, Buffer.alloc(0))]));
    return [...messages.slice(0, at), ...strange, ...messages.slice(at)];
  });

test.each<[Kind, string]>([
  ['exec', 'v5.channel.k8s.io'],
  ['exec', 'base64.channel.k8s.io'],
  ['portforward', 'v4.channel.k8s.io'],
  ['portforward', 'SPDY/3.1+portforward.k8s.io'],
])('no frames of WebSocket crash, hang or bloat a session: %s by %s', { timeout: 600_000 }, async (kind, protocol) => {
  const headers = {
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
    'sec-websocket-protocol': protocol,
  };
  const frames = protocol.startsWith('SPDY') ? tunnelled : fc.array(webSocketStep, all);
  await fc.assert(
    fc.asyncProperty(frames, pieceLength, mood, (messages, length, how) => attack(kind, headers, cut(Buffer.concat(messages), length), how)),
    options,
  );
});
