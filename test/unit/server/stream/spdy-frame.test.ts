import fc from 'fast-check';
import { expect, test } from 'vitest';
import { controlFrame, dataHeader, FrameReader, numbersFrame } from '../../../../server/stream/spdy-frame.ts';

type Seen = { data: number; bytes: string; fin: boolean } | { type: number; flags: number; payload: string };

/** What comes out, with the pieces of a data frame put together. */
function read(pieces: readonly Buffer[]): Seen[] {
  const seen: Seen[] = [];
  let open: { data: number; bytes: string; fin: boolean } | undefined;
  const reader = new FrameReader({
    data(id, piece, fin) {
      if (open?.data !== id) open = { data: id, bytes: '', fin };
      open.bytes += piece.toString('hex');
      open.fin = fin;
      if (!seen.includes(open)) seen.push(open);
    },
    control(type, flags, payload) {
      open = undefined;
      seen.push({ type, flags, payload: payload.toString('hex') });
    },
  });
  for (const piece of pieces) reader.push(piece);
  return seen;
}

const bytes = Buffer.concat([
  controlFrame(1, Buffer.from('0000000100000000beef', 'hex'), 1),
  dataHeader(1, 5, false),
  Buffer.from('hello'),
  numbersFrame(6, 7),
  dataHeader(3, 0, true),
  controlFrame(4, Buffer.alloc(0)),
  dataHeader(5, 3, true),
  Buffer.from('bye'),
]);

const frames: Seen[] = [
  { type: 1, flags: 1, payload: '0000000100000000beef' },
  { data: 1, bytes: Buffer.from('hello').toString('hex'), fin: false },
  { type: 6, flags: 0, payload: '00000007' },
  { data: 3, bytes: '', fin: true },
  { type: 4, flags: 0, payload: '' },
  { data: 5, bytes: Buffer.from('bye').toString('hex'), fin: true },
];

test('FrameReader reads the same frames however the bytes are cut', () => {
  expect(read([bytes])).toEqual(frames);
  expect(read([...bytes].map((byte) => Buffer.from([byte])))).toEqual(frames);
  fc.assert(
    fc.property(fc.array(fc.nat(bytes.length)), (cuts) => {
      const at = [0, ...cuts.sort((a, b) => a - b), bytes.length];
      expect(read(at.slice(1).map((end, index) => bytes.subarray(at[index], end)))).toEqual(frames);
    }),
  );
});

test.each([
  ['a control frame of another version', '8002000600000004', 'control frame of version 2'],
  ['a control frame that is too long', '8003000100ffffff', 'control frame of 16777215 bytes; at most 16384 are taken'],
])('FrameReader refuses %s, before its payload arrives', (_what, hex, message) => {
  expect(() => read([Buffer.from(hex, 'hex')])).toThrow(message);
});
