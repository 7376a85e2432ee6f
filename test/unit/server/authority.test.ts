import { once } from 'node:events';
import { mkdtempDisposable } from 'node:fs/promises';
import { connect, constants } from 'node:http2';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ServerCredentials } from '@grpc/grpc-js';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AuthorityFilter } from '../../../server/authority.ts';
import { serveApi } from '../../fakes/api.ts';

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');
const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const flag = { endHeaders: 4, padded: 8, priority: 32 } as const;

/** Recorded from grpc-go 1.80 with the authority "/run/containerd/x.sock": two calls, the second by indexes. */
const goClient = hex(`
  505249202a20485454502f322e300d0a0d0a534d0d0a0d0a 000000040000000000 000000040100000000
  000065010400000001 8386459962cb6a49a92afdc2bedb6a49a92ee2d9dcc42b1c4b620c7abf 41 90 62cb6a6087a9233545b2463cae8393af
  5f8b1d75d0620d263d4c4d65647a 8a9acac8b4c7602bbc05c140 027465864d833505b11f 40899acac8b24d494f6a7f860befba20b36f
  00000c000100000001 00000000070a05302e312e30 000004080000000000 0000001e 000008060000000000 02041010090e0707
  00000f010400000003 8386c3c2c1c0bf7e860befbefb4edb 00000c000100000003 00000000070a05302e312e30`);

function frame(type: number, flags: number, payload: Buffer, stream = 1): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const literal = (value: string): Buffer => Buffer.concat([Buffer.of(0x41, value.length), Buffer.from(value)]);

/** The filter's output for these chunks, the end included. */
function filtered(...chunks: Buffer[]): Buffer {
  const filter = new AuthorityFilter();
  return Buffer.concat([...chunks.flatMap((chunk) => filter.push(chunk)), ...filter.end()]);
}

/** The bytes in pieces, cut at these places. */
function pieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return places.slice(1).map((end, index) => bytes.subarray(places[index], end));
}

test('AuthorityFilter replaces the authority of a Go client and nothing else', () => {
  const spelt = hex('41 90 62cb6a6087a9233545b2463cae8393af');
  const at = goClient.indexOf(spelt);
  const head = goClient.indexOf(hex('000065010400000001'));
  const expected = Buffer.concat([
    goClient.subarray(0, head),
    hex('00006b010400000001'),
    goClient.subarray(head + 9, at),
    literal('-run-containerd-x.sock'),
    goClient.subarray(at + spelt.length),
  ]);
  expect(filtered(goClient).toString('hex')).toBe(expected.toString('hex'));
});

test('AuthorityFilter gives the same output however its input is cut', () => {
  const expected = filtered(goClient);
  fc.assert(
    fc.property(fc.array(fc.nat(), { maxLength: 30 }), (cuts) => {
      expect(filtered(...pieces(goClient, cuts)).equals(expected)).toBe(true);
    }),
  );
  expect(filtered(...Array.from(goClient, (byte) => Buffer.of(byte))).equals(expected)).toBe(true);
});

test('AuthorityFilter drops padding and keeps the priority of a frame that it changes', () => {
  const weight = hex('80000000 10');
  const payload = Buffer.concat([Buffer.of(3), weight, Buffer.of(0x83), literal('/a'), Buffer.alloc(3)]);
  const input = Buffer.concat([preface, frame(1, flag.endHeaders | flag.padded | flag.priority | 1, payload)]);
  const output = Buffer.concat([preface, frame(1, flag.endHeaders | flag.priority | 1, Buffer.concat([weight, Buffer.of(0x83), literal('-a')]))]);
  expect(filtered(input).equals(output)).toBe(true);
});

test('AuthorityFilter leaves a padded frame alone that needs no change', () => {
  const input = Buffer.concat([preface, frame(1, flag.endHeaders | flag.padded, Buffer.concat([Buffer.of(2), literal('localhost'), Buffer.alloc(2)]))]);
  expect(filtered(input).equals(input)).toBe(true);
});

test('AuthorityFilter reads a block that goes on in CONTINUATION frames, even inside the value', () => {
  const block = Buffer.concat([Buffer.of(0x83), literal('/run/x.sock'), Buffer.of(0x86)]);
  const input = Buffer.concat([preface, frame(1, 1, block.subarray(0, 6)), frame(9, 0, block.subarray(6, 8)), frame(9, flag.endHeaders, block.subarray(8))]);
  const output = Buffer.concat([preface, frame(1, flag.endHeaders | 1, Buffer.concat([Buffer.of(0x83), literal('-run-x.sock'), Buffer.of(0x86)]))]);
  expect(filtered(input).equals(output)).toBe(true);
});

test('AuthorityFilter splits what does not fit into one frame', () => {
  const filler = Buffer.concat(Array.from({ length: 130 }, () => Buffer.concat([hex('00 01 78 7f 01'), Buffer.alloc(128, 0x79)])));
  const block = Buffer.concat([literal('/a'), filler]);
  const input = Buffer.concat([preface, frame(1, 0, block.subarray(0, 16_384)), frame(9, flag.endHeaders, block.subarray(16_384))]);
  const clean = Buffer.concat([literal('-a'), filler]);
  const output = Buffer.concat([preface, frame(1, 0, clean.subarray(0, 16_384)), frame(9, flag.endHeaders, clean.subarray(16_384))]);
  expect(filtered(input).equals(output)).toBe(true);
});

test.each([
  ['no HTTP/2', Buffer.from('GET /info HTTP/1.1\r\n\r\n')],
  ['a header frame that is too long', Buffer.concat([preface, frame(1, 4, Buffer.alloc(20_000))])],
  [
    'a frame between HEADERS and CONTINUATION',
    Buffer.concat([preface, frame(1, 0, literal('/a')), frame(0, 0, Buffer.alloc(3)), frame(9, 4, Buffer.alloc(0))]),
  ],
  ['CONTINUATION of another stream', Buffer.concat([preface, frame(1, 0, literal('/a')), frame(9, 4, Buffer.of(0x83), 3)])],
  ['CONTINUATION without HEADERS', Buffer.concat([preface, frame(9, 4, literal('/a'))])],
  ['a block without end', Buffer.concat([preface, frame(1, 0, literal('/a')), ...Array.from({ length: 8000 }, () => frame(9, 0, Buffer.alloc(0)))])],
  ['padding longer than its frame', Buffer.concat([preface, frame(1, flag.endHeaders | flag.padded, Buffer.concat([Buffer.of(200), literal('/a')]))])],
  ['an end in the middle of a frame', Buffer.concat([preface, frame(1, 4, literal('/a')).subarray(0, 11)])],
])('AuthorityFilter lets %s through untouched', (_name, input) => {
  expect(filtered(input).equals(input)).toBe(true);
});

test('AuthorityFilter takes garbage, however it is cut', () => {
  const garbage = fc.array(
    fc.oneof(
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
      fc
        .tuple(fc.constantFrom(0, 1, 1, 4, 9), fc.nat(255), fc.uint8Array({ maxLength: 40 }), fc.constantFrom(1, 3))
        .map(([type, flags, payload, stream]) => frame(type, flags, Buffer.from(payload), stream)),
      fc
        .tuple(fc.constantFrom(0, 4, 8, 32, 44), fc.string({ maxLength: 40 }))
        .map(([flags, text]) => frame(1, flags, literal(text.replaceAll(/[^\x20-\x7e]/g, '/')))),
    ),
    { maxLength: 8 },
  );
  fc.assert(
    fc.property(garbage, fc.array(fc.nat(), { maxLength: 10 }), fc.boolean(), (parts, cuts, proper) => {
      const input = Buffer.concat(proper ? [preface, ...parts] : parts);
      expect(filtered(...pieces(input, cuts)).equals(filtered(input))).toBe(true);
    }),
  );
});

/** Calls Version three times over one connection, as an old Go client does; resolves with what each came to. */
async function callVersion(path: string, authority: string): Promise<string[]> {
  const session = connect('http://localhost', { createConnection: () => createConnection(path) });
  session.on('error', () => {});
  const outcomes: string[] = [];
  for (let count = 0; count < 3; count += 1) {
    const stream = session.request({
      ':authority': authority,
      ':method': 'POST',
      ':path': '/runtime.v1.RuntimeService/Version',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    let outcome = '';
    stream.on('error', () => {});
    stream.on('trailers', (trailers) => {
      outcome = `grpc-status ${trailers['grpc-status']}`;
    });
    stream.on('response', (headers) => {
      if (headers['grpc-status'] !== undefined) outcome = `grpc-status ${headers['grpc-status']}`;
    });
    stream.resume();
    stream.end(Buffer.alloc(5));
    await new Promise((resolve) => stream.on('close', resolve));
    outcomes.push(outcome === '' ? `reset ${stream.rstCode}` : outcome);
  }
  session.destroy();
  return outcomes;
}

test('FilteredSocket lets a client in whose authority is a path, which grpc-js alone refuses', async () => {
  await using api = await serveApi({ Version: async () => ({ version: '0.1.0' }) });
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-authority-'));
  const injector = api.server.createConnectionInjector(ServerCredentials.createInsecure());
  const bare = createServer((socket) => injector.injectConnection(socket));
  await once(bare.listen(join(dir.path, 'bare.sock')), 'listening');
  const refused = `reset ${constants.NGHTTP2_PROTOCOL_ERROR}`;
  expect(await callVersion(join(dir.path, 'bare.sock'), '/run/x.sock')).toEqual([refused, refused, refused]);
  expect(await callVersion(join(dir.path, 'bare.sock'), 'localhost')).toEqual(['grpc-status 0', 'grpc-status 0', 'grpc-status 0']);
  expect(await callVersion(api.path, '/run/x.sock')).toEqual(['grpc-status 0', 'grpc-status 0', 'grpc-status 0']);
  expect(await callVersion(api.path, 'localhost')).toEqual(['grpc-status 0', 'grpc-status 0', 'grpc-status 0']);
  bare.close();
});

test('FilteredSocket serves the recorded Go client, indexes and all', async () => {
  await using api = await serveApi({ Version: async () => ({ version: '0.1.0' }) });
  const socket = createConnection(api.path);
  socket.write(goClient);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  const answers = (): number => Buffer.concat(chunks).toString('latin1').split('\n\x050.1.0').length - 1;
  while (answers() < 2) await once(socket, 'data');
  expect(api.observed).toEqual(['Version OK', 'Version OK']);
  socket.destroy();
});

test('FilteredSocket outlives clients that break off anywhere', async () => {
  await using api = await serveApi({ Version: async () => ({ version: '0.1.0' }) });
  for (let end = 0; end <= goClient.length; end += 7) {
    const socket = createConnection(api.path);
    socket.on('error', () => {});
    await once(socket, 'connect');
    if (end % 2 === 0) socket.end(goClient.subarray(0, end));
    else socket.write(goClient.subarray(0, end), () => socket.destroy());
    socket.resume();
  }
  expect(await api.call('Version')).toMatchObject({ version: '0.1.0' });
});

test('FilteredSocket carries large messages both ways', async () => {
  await using api = await serveApi({ StopContainer: async () => ({}), ExecSync: async ({ cmd }) => ({ stdout: Buffer.from(cmd[0] ?? '') }) });
  const text = 'x'.repeat(3_000_000);
  const { stdout } = await api.call('ExecSync', { cmd: [text] });
  expect(stdout.toString() === text).toBe(true);
});
