// Debian's docker-registry in the ways that operators run it, filled by the tools that they use.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { run } from '#base/exec.ts';
import type { RegistryAuth, StorageOptions } from '../../../storage/storage.ts';
import { ForwardProxy } from '../../fakes/forward-proxy.ts';
import { TokenServer } from '../../fakes/token-server.ts';
import { makeImage, writeLayout } from '../../fixtures/storage/image.ts';
import { TestStore } from '../../fixtures/storage/store.ts';
import { Authority, readPair, selfSigned } from '../../support/certificates.ts';
import { freePort, type Registry, type RegistrySettings, serveRegistry } from '../../support/registry.ts';
import { findTool } from '../../support/tool.ts';

const noAuth: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const alice: RegistryAuth = { ...noAuth, username: 'alice', password: 'secret-word' };
/** htpasswd -nbBC 4 alice secret-word */
const HTPASSWD = 'alice:$2y$04$RIgf7cnv/MaJi2OMAy2XV.s./zAIVPavD8JXLve5rrZ9mmb.ZK9eO\n';
const PUSHED = ['skopeo-oci', 'skopeo-docker', 'buildah-oci', 'buildah-docker'];

let dir = '';
let data = '';
const signal = AbortSignal.timeout(600_000);
const missing = ['docker-registry', 'skopeo', 'buildah', 'openssl'].filter((tool) => findTool(tool) === undefined);

/** A registry over the images below, in one of its ways. */
async function registry(settings: RegistrySettings = {}): Promise<Registry> {
  const port = await freePort();
  return serveRegistry(data, join(dir, `registry-${port}.yml`), port, settings);
}

async function store(registries: string, more: Partial<StorageOptions> = {}): Promise<TestStore> {
  const opened = await TestStore.open({ certificates: [join(dir, 'nothing.d')], ...more });
  writeFileSync(join(opened.dir, 'registries.conf'), registries);
  return opened;
}

const plain = (location: string): string => `[[registry]]\nlocation = "${location}"\ninsecure = true\n`;

/** One image by each tool in each format, below `public/` and `private/`. */
async function fill({ address }: Registry): Promise<void> {
  const image = makeImage([{ entries: [{ name: 'hello', content: 'from skopeo' }] }, { entries: [{ name: 'two' }] }], { Cmd: ['/hello'] });
  const layout = join(dir, 'layout');
  await writeLayout(layout, [{ image, name: 'x' }]);
  const skopeo = (format: string, to: string): Promise<unknown> =>
    run('skopeo', ['copy', '-q', '--insecure-policy', '--dest-tls-verify=false', '--format', format, `oci:${layout}:x`, `docker://${address}/${to}`], {
      signal,
    });
  await skopeo('oci', 'public/skopeo-oci:1');
  await skopeo('v2s2', 'public/skopeo-docker:1');
  await skopeo('oci', 'private/app:1');
  const context = join(dir, 'context');
  mkdirSync(context);
  writeFileSync(join(context, 'hello'), 'from buildah');
  writeFileSync(join(context, 'Containerfile'), 'FROM scratch\nCOPY hello /hello\nCMD ["/hello"]\n');
  const buildah = (...args: string[]): Promise<unknown> =>
    run('buildah', ['--root', join(dir, 'buildah'), '--runroot', join(dir, 'buildah-run'), '--storage-driver', 'vfs', ...args], {
      signal,
      env: { PATH: process.env.PATH ?? '', HOME: dir, TMPDIR: dir },
    });
  for (const format of ['oci', 'docker']) {
    await buildah('bud', '--isolation', 'chroot', '--format', format, '-t', `built-${format}`, context);
    const policy = join(dir, 'policy.json');
    writeFileSync(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
    await buildah('push', '--signature-policy', policy, '--tls-verify=false', `built-${format}`, `docker://${address}/public/buildah-${format}:1`);
  }
}

beforeAll(async () => {
  if (missing.length > 0) return;
  dir = mkdtempSync(join(tmpdir(), 'berth-real-'));
  data = join(dir, 'data');
  await using filling = await registry();
  await fill(filling);
});

afterAll(() => {
  if (dir !== '') rmSync(dir, { recursive: true, force: true });
});

describe.skipIf(missing.length > 0)('a real registry', () => {
  test.each(PUSHED)('gives what was pushed as %s', async (name) => {
    await using at = await registry();
    await using here = await store(plain(at.address));
    const image = await here.storage.pull(`${at.address}/public/${name}:1`, { signal });
    expect(image).toMatchObject({ repoTags: [`${at.address}/public/${name}:1`], config: { cmd: ['/hello'] }, os: 'linux' });
    const mounted = await here.mount(image.id);
    expect(readFileSync(join(mounted, 'hello'), 'utf8')).toBe(`from ${name.split('-')[0]}`);
    await here.storage.unmountRootfs(mounted);
  });

  test('with a password file takes credentials from the call, or from auth files by host and by path', async () => {
    const passwords = join(dir, 'htpasswd');
    writeFileSync(passwords, HTPASSWD);
    await using at = await registry({ auth: { htpasswd: { realm: 'test', path: passwords } } });
    await using here = await store(plain(at.address));
    const name = `${at.address}/private/app:1`;
    await expect(here.storage.pull(name, { signal })).rejects.toThrow('wants credentials, and none were given (401)');
    const wrong = here.storage.pull(name, { signal, auth: { ...alice, password: 'guess-word' } });
    await expect(wrong).rejects.toThrow('refuses the credentials (401)');
    await expect(wrong).rejects.not.toThrow('guess-word');
    const elsewhere = here.storage.pull(name, { signal, auth: { ...alice, serverAddress: 'https://quay.io' } });
    await expect(elsewhere).rejects.toThrow('wants credentials');
    for (const given of [
      alice,
      { ...noAuth, auth: Buffer.from('alice:secret-word').toString('base64') },
      { ...alice, serverAddress: `http://${at.address}/v2/` },
    ]) {
      expect((await here.storage.pull(name, { signal, auth: given })).repoTags).toEqual([name]);
    }
    const entry = (word: string): object => ({ auth: Buffer.from(`alice:${word}`).toString('base64') });
    const write = (auths: object): void => writeFileSync(join(here.dir, 'auth.json'), JSON.stringify({ auths }));
    write({ [at.address]: entry('secret-word') });
    await here.storage.pull(name, { signal });
    write({ [at.address]: entry('not this one'), [`${at.address}/private`]: entry('secret-word') });
    await here.storage.pull(name, { signal });
    write({ [at.address]: entry('secret-word'), [`${at.address}/private/app`]: entry('not this one') });
    await expect(here.storage.pull(name, { signal })).rejects.toThrow('refuses the credentials');
  });

  test('with TLS wants its authority, and a client certificate, from certs.d', async () => {
    const certs = join(dir, 'tls');
    mkdirSync(certs);
    const authority = await Authority.make(certs, 'authority');
    const [server, client] = [await authority.issue('server'), await authority.issue('client')];
    await using at = await registry({ tls: { certificate: server.cert, key: server.key, clientcas: [authority.cert] } });
    const certificates = [join(dir, 'containers.d'), join(dir, 'docker.d')];
    await using here = await store('', { certificates });
    const name = `${at.address}/public/skopeo-oci:1`;
    const pull = (): Promise<unknown> => here.storage.pull(name, { signal });
    await expect(pull()).rejects.toThrow(/^RegistryUnavailable: .*(unable to verify|unable to get local issuer|self-signed)/);
    const own = join(dir, 'docker.d', at.address);
    mkdirSync(own, { recursive: true });
    copyFileSync(authority.cert, join(own, 'ca.crt'));
    await expect(pull()).rejects.toThrow(/certificate required|bad certificate|ECONNRESET|socket hang up/i);
    copyFileSync(client.cert, join(own, 'client.cert'));
    await expect(pull()).rejects.toThrow(`client certificate ${join(own, 'client.cert')} has no client.key`);
    writeFileSync(join(own, 'client.key'), 'not a key');
    await expect(pull()).rejects.toThrow(`certificates in ${own} cannot be used`);
    copyFileSync(client.key, join(own, 'client.key'));
    await pull();
    expect(here.storage.find(name)).toBeDefined();
  });

  test('behind a token server takes anonymous, password, identity and registry tokens', async () => {
    const signer = await selfSigned(dir, 'signer');
    const options = { ...readPair(signer), service: 'test registry', issuer: 'test issuer', users: { alice: 'secret-word' }, identityToken: 'long-lived' };
    await using tokens = await TokenServer.start(options);
    await using at = await registry({
      auth: { token: { realm: tokens.url, service: options.service, issuer: options.issuer, rootcertbundle: signer.cert } },
    });
    await using here = await store(plain(at.address));
    const pull = (repository: string, auth?: RegistryAuth): Promise<unknown> =>
      here.storage.pull(`${at.address}/${repository}`, auth === undefined ? { signal } : { signal, auth });
    await pull('public/skopeo-oci:1');
    await expect(pull('private/app:1')).rejects.toThrow('gives no anonymous token (401)');
    await expect(pull('private/app:1', { ...alice, password: 'guess-word' })).rejects.toThrow('refuses the credentials (401)');
    await pull('private/app:1', alice);
    await pull('private/app:1', { ...noAuth, identityToken: 'long-lived' });
    const before = tokens.requests.length;
    await pull('private/app:1', { ...noAuth, registryToken: tokens.token('private/app') });
    expect(tokens.requests).toHaveLength(before);
    expect(tokens.requests.map(({ method, user }) => `${method} ${user}`)).toEqual(['GET ', 'GET ', 'GET undefined', 'GET alice', 'POST alice']);
    expect(tokens.requests.every(({ scope }) => /^repository:[a-z/-]+:pull$/.test(scope ?? ''))).toBe(true);
  });

  test('gives a new token when the old one has expired in the middle of it all', async () => {
    const signer = await selfSigned(dir, 'signer2');
    const options = { ...readPair(signer), service: 's', issuer: 'i', users: {}, identityToken: 'none' };
    await using tokens = await TokenServer.start(options);
    // The registry forgives a minute: this one has expired before it is used.
    tokens.lifeSeconds = -3_600;
    await using at = await registry({ auth: { token: { realm: tokens.url, service: 's', issuer: 'i', rootcertbundle: signer.cert } } });
    await using here = await store(plain(at.address));
    const pull = (): Promise<unknown> => here.storage.pull(`${at.address}/public/skopeo-oci:1`, { signal });
    await expect(pull()).rejects.toThrow('(401)');
    tokens.lifeSeconds = 300;
    await pull();
  });

  test('is reached through a proxy, with TLS and without, and directly where NO_PROXY says so', async () => {
    const certs = join(dir, 'proxied');
    mkdirSync(certs);
    const authority = await Authority.make(certs, 'authority');
    const server = await authority.issue('server');
    const certificates = [join(dir, 'proxied.d')];
    mkdirSync(join(certificates[0] as string, 'registry.test'), { recursive: true });
    copyFileSync(authority.cert, join(certificates[0] as string, 'registry.test', 'ca.crt'));
    await using secure = await registry({ tls: { certificate: server.cert, key: server.key } });
    await using open = await registry();
    await using tunnel = await ForwardProxy.start(secure.address);
    await using forward = await ForwardProxy.start(open.address);
    await using here = await store('', { proxyEnv: { HTTPS_PROXY: tunnel.url, NO_PROXY: '10.0.0.0/8,.direct.test' }, certificates });
    await here.storage.pull('registry.test/public/skopeo-oci:1', { signal });
    expect(tunnel.requests[0]).toBe('CONNECT registry.test:443');
    await using there = await store(plain('plain.test:5000'), { proxyEnv: { http_proxy: forward.url } });
    await there.storage.pull('plain.test:5000/public/skopeo-docker:1', { signal });
    expect(forward.requests).toContain('GET http://plain.test:5000/v2/public/skopeo-docker/manifests/1');
    const asked = tunnel.requests.length;
    await expect(here.storage.pull('registry.direct.test/public/skopeo-oci:1', { signal })).rejects.toThrow(/^RegistryUnavailable: .*(ENOTFOUND|EAI_AGAIN)/);
    expect(tunnel.requests).toHaveLength(asked);
  });

  test('that vanishes in the middle is told, and the next pull takes what is back', async () => {
    const port = await freePort();
    const config = join(dir, 'vanishing.yml');
    await using here = await store(plain(`127.0.0.1:${port}`));
    const name = `127.0.0.1:${port}/public/skopeo-oci:1`;
    {
      await using _at = await serveRegistry(data, config, port);
      await here.storage.pull(name, { signal });
    }
    await expect(here.storage.pull(name, { signal })).rejects.toThrow(/^RegistryUnavailable: .*ECONNREFUSED/);
    expect(here.storage.find(name)).toBeDefined();
    await using _again = await serveRegistry(data, config, port);
    await here.storage.pull(name, { signal });
  });
});

if (missing.length > 0) test(`a real registry needs ${missing.join(', ')}`, ({ skip }) => skip('not installed'));
