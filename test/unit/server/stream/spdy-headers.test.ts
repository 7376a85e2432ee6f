import { constants, createDeflate, deflateSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { SPDY_DICTIONARY } from '../../../../server/stream/spdy-dictionary.ts';
import { HeaderReader } from '../../../../server/stream/spdy-headers.ts';
import { headerBlock } from '../../../fakes/spdy-client.ts';

/** One zlib stream, flushed after each block, as Go's zlib.Writer does it. */
async function compress(blocks: readonly Buffer[]): Promise<Buffer[]> {
  const deflate = createDeflate({ dictionary: SPDY_DICTIONARY });
  const out: Buffer[] = [];
  for (const block of blocks) {
    deflate.write(block);
    await new Promise<void>((resolve) => {
      deflate.flush(constants.Z_SYNC_FLUSH, resolve);
    });
    const parts: Buffer[] = [];
    for (let part = deflate.read(); part !== null; part = deflate.read()) parts.push(part);
    out.push(Buffer.concat(parts));
  }
  deflate.close();
  return out;
}

const first = (block: Buffer): Buffer => deflateSync(block, { dictionary: SPDY_DICTIONARY, finishFlush: constants.Z_SYNC_FLUSH });

test('HeaderReader reads blocks that refer to earlier ones, however many there were', async () => {
  const all = Array.from({ length: 2_000 }, (_, index) => ({ streamtype: index % 2 === 0 ? 'data' : 'error', port: '8080', requestid: String(index) }));
  const reader = new HeaderReader();
  for (const [index, block] of (await compress(all.map(headerBlock))).entries()) {
    expect(Object.fromEntries(reader.read(block))).toEqual(all[index]);
  }
});

test('HeaderReader gives names in lower case', () => {
  expect(new HeaderReader().read(first(headerBlock({ streamType: 'Data' })))).toEqual(new Map([['streamtype', 'Data']]));
});

const count = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

test.each([
  ['no zlib stream', Buffer.from('no zlib stream'), 'headers are not a zlib stream with the dictionary of SPDY'],
  ['another dictionary', deflateSync(headerBlock({}), { dictionary: Buffer.from('other') }), 'headers are not a zlib stream'],
  ['none at all', Buffer.alloc(0), 'headers are not a zlib stream'],
  ['a bomb', first(Buffer.alloc(10_000_000)), 'headers cannot be inflated to at most 16384 bytes'],
  ['what is no deflate', Buffer.concat([first(headerBlock({})).subarray(0, 6), Buffer.from('ffffffff', 'hex')]), 'headers cannot be inflated'],
  ['a huge count', first(count(0xffffffff)), '4294967295 headers are more than 64'],
  ['fewer than it says', first(count(3)), 'header block is too short'],
  ['a name longer than the block', first(Buffer.concat([count(1), count(1_000), Buffer.from('x')])), 'header block is too short'],
])('HeaderReader refuses %s', (_what, block, message) => {
  expect(() => new HeaderReader().read(block)).toThrow(message);
});
