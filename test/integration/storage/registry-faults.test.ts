// Registries that lie, dawdle, die or lead astray.
import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { FakeRegistry, type FakeRegistryOptions, type Fault } from '../../fakes/registry.ts';
import { contentOf, makeImage } from '../../fixtures/storage/image.ts';
import { alice, type ServedStore, serveStore } from '../../fixtures/storage/served-store.ts';
import { TestStore } from '../../fixtures/storage/store.ts';

const image = makeImage([{ entries: [{ name: 'a', content: randomBytes(40_000) }] }]);
const layer = image.layerDigests[0] as string;
const content = contentOf({ 'app:1': image });
const IDLE_MS = 1_000;

const serve = (options?: FakeRegistryOptions, pullProgressTimeoutMs = IDLE_MS): Promise<ServedStore> => serveStore(content, options, pullProgressTimeoutMs);

const on = (part: string, fault: Fault, times = 99): FakeRegistryOptions => ({
  fault: ({ path, count }) => (path.includes(part) && count <= times ? fault : undefined),
});

/** Sends pieces until there are none or the client has gone. */
function drip(response: ServerResponse, pieces: Iterable<string | Buffer>, everyMs: number): void {
  const rest = pieces[Symbol.iterator]();
  const timer = setInterval(() => {
    const { value, done } = rest.next();
    if (done === true || response.destroyed) {
      clearInterval(timer);
      response.end();
    } else response.write(value);
  }, everyMs);
}

function* forever(piece: string | Buffer): Generator<string | Buffer> {
  for (;;) yield piece;
}

function* cut(body: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < body.length; at += size) yield body.subarray(at, at + size);
}

const raw =
  (head: string): Fault =>
  (response) => {
    const { socket } = response;
    let at = 0;
    const timer = setInterval(() => {
      if (socket === null || socket.destroyed) clearInterval(timer);
      else socket.write(head[at] ?? 'x');
      at += 1;
    }, 50);
  };

describe('a registry that lies', () => {
  test.each<[string, FakeRegistryOptions, RegExp]>([
    [
      'about the digest of a manifest',
      on('/manifests/', (response, body) => response.writeHead(200, { 'docker-content-digest': layer }).end(body)),
      /has digest .*, not /,
    ],
    ['about the bytes of a config', on(image.id, 'corrupt'), /came with digest/],
    ['about the bytes of a layer', on(layer, 'corrupt'), /came with digest/],
    ['by sending less than a layer has', on(layer, (response, body) => response.end(body.subarray(0, 100))), /^RegistryUnavailable: .*ended after 100 of/],
    ['by sending more than a layer has', on(layer, (response, body) => response.end(Buffer.concat([body, body]))), /is longer than its \d+ bytes/],
    ['with a layer that never ends', on(layer, (response) => drip(response, forever(Buffer.alloc(10_000)), 1)), /is longer than its \d+ bytes/],
    [
      'with a manifest that never ends',
      on('/manifests/', (response) => drip(response, forever(Buffer.alloc(500_000, ' ')), 1)),
      /is larger than 4194304 bytes/,
    ],
    [
      'with an error that never ends',
      on('/manifests/', (response) => drip(response.writeHead(403), forever(Buffer.alloc(50_000, ' ')), 1)),
      /refuses|wants credentials/,
    ],
    [
      'with a web page for a manifest',
      on('/manifests/', (response) => response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end('<html>')),
      /is a web page: this is no registry/,
    ],
    ['with what is no JSON', on('/manifests/', (response) => response.end('hello')), /has a manifest that is not JSON/],
    ['with a web page for a config', on(image.id, (response) => response.end('<html>')), /^RegistryUnavailable: .*ended after 6 of/],
    [
      'with a redirect to itself',
      on('/manifests/', (response) => response.writeHead(302, { location: '/v2/app/manifests/1' }).end()),
      /redirects more than 5 times/,
    ],
    [
      'with a redirect to nowhere',
      on('/manifests/', (response) => response.writeHead(302, { location: 'ftp://example.com/' }).end()),
      /redirects to what is no HTTP address/,
    ],
  ])('%s is named, and nothing is left', async (_what, options, message) => {
    await using at = await serve(options);
    await expect(at.pull()).rejects.toThrow(message);
    expect(await at.store.leftovers()).toMatchObject({ staging: [], images: 0 });
    expect(at.store.storage.images()).toEqual([]);
  });

  test('about the size of a manifest in an index is named', async () => {
    const { manifests, blobs } = contentOf({ 'app:one': image });
    const type = 'application/vnd.oci.image.index.v1+json';
    const platform = { os: 'linux', architecture: process.arch === 'x64' ? 'amd64' : process.arch };
    const entry = { mediaType: image.mediaType, digest: image.digest, size: image.manifest.length + 1, platform };
    manifests.set('app:1', { body: Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: type, manifests: [entry] })), type });
    await using registry = await FakeRegistry.start({ manifests, blobs });
    await using store = await TestStore.open();
    await store.redirect('example.com', registry.host);
    await expect(store.storage.pull('example.com/app:1', { signal: store.signal })).rejects.toThrow(/has \d+ bytes, not \d+/);
  });
});

describe('a registry that dawdles', () => {
  test.each<[string, FakeRegistryOptions, RegExp]>([
    ['a byte of its headers at a time', on('/manifests/', raw('HTTP/1.1 200 OK\r\nx-slow: ')), /no progress: no answer within/],
    [
      'a byte of a layer at a time',
      on(layer, (response, body) => drip(response, cut(body, 1), 100)),
      /no progress: no more than \d+ bytes were received in 1 s/,
    ],
    ['a byte of a manifest at a time', on('/manifests/', (response, body) => drip(response, cut(body, 1), 100)), /no progress/],
    ['nothing at all', on('/manifests/', () => {}), /no progress: no(t a byte was received for| answer within) 1 s/],
  ])('and sends %s is cancelled', async (_what, options, message) => {
    await using at = await serve(options);
    await expect(at.pull()).rejects.toThrow(message);
  });

  test('but goes on is waited for, for longer than the time for progress', async () => {
    await using at = await serve(on(layer, (response, body) => drip(response, cut(body, 2_500), 200)));
    const started = performance.now();
    await at.pull();
    expect(performance.now() - started).toBeGreaterThan(2 * IDLE_MS); // the bound was passed, and nothing was cancelled
  });
});

test('a proxy that makes no tunnel does not hold a pull', async () => {
  const sockets: Socket[] = [];
  const proxy = createServer((socket) => void sockets.push(socket.on('error', () => {})));
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  try {
    await using store = await TestStore.open({
      pullProgressTimeoutMs: IDLE_MS,
      proxyEnv: { HTTPS_PROXY: `127.0.0.1:${(proxy.address() as AddressInfo).port}` },
    });
    await expect(store.storage.pull('registry.test/app:1', { signal: store.signal })).rejects.toThrow(/^RegistryUnavailable: .*no connection within 1 s/);
  } finally {
    for (const socket of sockets) socket.destroy();
    proxy.close();
  }
});

describe('tokens and credentials', () => {
  const users = { alice: 'secret-word' };

  test('a token that expires in the middle of a pull is replaced', async () => {
    let registry: FakeRegistry | undefined;
    await using at = await serve({
      auth: 'token',
      users,
      fault: ({ path }) => {
        if (path.includes('/manifests/')) registry?.expireTokens();
        return undefined;
      },
    });
    registry = at.registry;
    await at.pull(alice);
    expect(at.registry.count('/token')).toBe(2);
  });

  test('a token server that is busy is asked again; one that is down is told', async () => {
    await using busy = await serve({
      auth: 'token',
      users,
      tokenFault: (count) => (count === 1 ? { status: 503, headers: { 'retry-after': '0' } } : undefined),
    });
    await busy.pull(alice);
    await using down = await serve({ auth: 'token', users, tokenFault: () => ({ status: 500 }) });
    await expect(down.pull(alice)).rejects.toThrow(/^RegistryUnavailable: .*token server .* answers 500/);
  });

  test('a token server whose answer breaks off is asked again, and told when it never ends', async () => {
    const breakOff: Fault = (response) => {
      response.writeHead(200, { 'content-length': '100' });
      response.write('{"tok', () => response.destroy());
    };
    await using once = await serve({ auth: 'token', users, tokenFault: (count) => (count === 1 ? breakOff : undefined) });
    await once.pull(alice);
    await using always = await serve({ auth: 'token', users, tokenFault: () => breakOff });
    await expect(always.pull(alice)).rejects.toThrow(/^RegistryUnavailable: .*token server 127\.0\.0\.1:\d+/);
  });

  test.each<[string, Fault]>([
    ['with a web page', (response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>')],
    ['without a token', (response) => response.end('{"tokens": 1}')],
    ['with a token that would add a header', (response) => response.end(JSON.stringify({ token: 'a\r\nx: y' }))],
  ])('a token server that answers %s is told', async (_what, fault) => {
    await using at = await serve({ auth: 'token', users, tokenFault: () => fault });
    await expect(at.pull(alice)).rejects.toThrow(/token server .* answers without a token/);
  });

  test('a token server that has moved is followed, without the password where that would go to another', async () => {
    let moved = '';
    await using at = await serve({ auth: 'token', users, tokenFault: (count) => (count === 1 ? { status: 307, headers: { location: moved } } : undefined) });
    moved = `http://${at.registry.host}/token?service=fake&scope=repository:app:pull`;
    await at.pull(alice);
    await using thief = await FakeRegistry.start(content, { auth: 'token', users });
    await using led = await serve({ auth: 'token', users, tokenFault: () => ({ status: 307, headers: { location: `http://${thief.host}/token` } }) });
    await expect(led.pull(alice)).rejects.toThrow('(401)');
    expect(thief.requests.map(({ path, authorization }) => ({ path, authorization }))).toEqual([{ path: '/token', authorization: undefined }]);
  });

  test('are not shown to where a registry redirects to, even when that asks for them', async () => {
    await using thief = await FakeRegistry.start(content, { auth: 'basic', users });
    await using at = await serve({
      auth: 'basic',
      users,
      fault: ({ path }) => (path.includes('/blobs/') ? { status: 307, headers: { location: `http://${thief.host}${path}?sig=hidden` } } : undefined),
    });
    const failed = at.pull(alice);
    await expect(failed).rejects.toThrow(`${thief.host}, to which the registry redirects, answers 401`);
    await expect(failed).rejects.not.toThrow(/hidden|secret-word|alice/);
    expect(thief.requests.length).toBeGreaterThan(0);
    expect(thief.requests.every(({ authorization }) => authorization === undefined)).toBe(true);
  });

  test('do not come back on a way that has left the registry', async () => {
    let back = '';
    await using elsewhere = await FakeRegistry.start(content, { fault: ({ path }) => ({ status: 307, headers: { location: `${back}${path}?again` } }) });
    await using at = await serve({
      auth: 'basic',
      users,
      fault: ({ path, count }) =>
        path.includes('/blobs/') && count === 1 ? { status: 307, headers: { location: `http://${elsewhere.host}${path}` } } : undefined,
    });
    back = `http://${at.registry.host}`;
    await expect(at.pull(alice)).rejects.toThrow(`${at.registry.host}, to which the registry redirects, answers 401`);
  });
});

describe('when to come back', () => {
  test('is what Retry-After says, up to a bound', async () => {
    await using at = await serve(on('/manifests/', { status: 429, headers: { 'retry-after': '1' } }, 1));
    const started = performance.now();
    await at.pull();
    expect(performance.now() - started).toBeGreaterThan(1_000);
    await using later = await serve(on('/manifests/', { status: 429, headers: { 'retry-after': '3600' } }));
    await expect(later.pull()).rejects.toThrow(/^RegistryUnavailable: .*registry answers 429/);
    expect(later.registry.count('/manifests/')).toBe(1);
  });
});
