import { once } from 'node:events';
import { mkdtempDisposable } from 'node:fs/promises';
import { connect } from 'node:http2';
import { createConnection, createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { FilteredSocket } from '../../../server/authority.ts';
import { greet } from '../../../server/greeting.ts';
import { serveApi } from '../../fakes/api.ts';

/** Which connection `greet` hands on for what a client sends; with the bytes that can be read from it. */
async function handedOn(client: (path: string) => void): Promise<{ connection: Duplex; bytes: Buffer }> {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-greet-'));
  const path = join(dir.path, 's');
  const { promise, resolve } = Promise.withResolvers<Duplex>();
  const server = createServer((socket) => greet(socket, resolve));
  await once(server.listen(path), 'listening');
  client(path);
  const connection = await promise;
  const [bytes] = (await once(connection.resume(), 'data')) as [Buffer];
  connection.destroy();
  server.close();
  return { connection, bytes };
}

const ask = (authority: string) => (path: string) => {
  const session = connect('http://localhost', { createConnection: () => createConnection(path) });
  session.on('error', () => {});
  const stream = session.request({ ':authority': authority, ':path': '/runtime.v1.RuntimeService/Version' });
  stream.on('error', () => {});
  stream.on('close', () => session.destroy());
};

test('greet() hands an ordinary client on as it is, without its acknowledgement of the greeting', async () => {
  const { connection, bytes } = await handedOn(ask('localhost'));
  expect(connection).toBeInstanceOf(Socket);
  expect(bytes.subarray(0, 24).toString('latin1')).toBe('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  expect(framesOf(bytes)).not.toContain('settings ack');
  expect(framesOf(bytes)).toContain('headers');
});

test('greet() puts the filter before a client whose authority is a path', async () => {
  const { connection } = await handedOn(ask('/run/berth/berth.sock'));
  expect(connection).toBeInstanceOf(FilteredSocket);
});

test('greet() understands a client whose bytes come one by one', async () => {
  await using api = await serveApi({ Version: async () => ({ version: '0.1.0' }) });
  const session = connect('http://localhost', {
    createConnection: () => {
      const socket = createConnection(api.path);
      const write = socket.write.bind(socket);
      socket.write = ((chunk: Buffer) => {
        for (const byte of chunk) write(Buffer.from([byte]));
        return true;
      }) as typeof socket.write;
      return socket;
    },
  });
  const stream = session.request({ ':method': 'POST', ':path': '/runtime.v1.RuntimeService/Version', 'content-type': 'application/grpc', te: 'trailers' });
  stream.end(Buffer.alloc(5));
  const [trailers] = (await once(stream.resume(), 'trailers')) as [Record<string, string>];
  expect(trailers['grpc-status']).toBe('0');
  session.destroy();
});

test('greet() answers a PING that comes before any request', async () => {
  await using api = await serveApi({});
  const session = connect('http://localhost', { createConnection: () => createConnection(api.path) });
  await once(session, 'remoteSettings');
  expect(await new Promise((resolve) => session.ping((err) => resolve(err)))).toBe(null);
  session.destroy();
});

test('greet() cuts off a client that says a lot and never asks', async () => {
  await using api = await serveApi({});
  const socket = createConnection(api.path);
  socket.on('error', () => {});
  socket.write(Buffer.alloc(200_000, 'x'));
  await new Promise((resolve) => socket.resume().on('close', resolve));
});

function framesOf(bytes: Buffer): string[] {
  const names: string[] = [];
  for (let at = 24; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
    const type = bytes.readUInt8(at + 3);
    names.push(type === 1 ? 'headers' : type === 4 && (bytes.readUInt8(at + 4) & 1) === 1 ? 'settings ack' : `type ${type}`);
  }
  return names;
}
