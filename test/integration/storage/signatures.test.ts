// Images that are signed by real keys, in a real registry, held to real policies.
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { claimOf, signatureImage, signatureTagOf, signClaim } from '../../fixtures/storage/cosign.ts';
import { makeImage, pushImage, type TestImage } from '../../fixtures/storage/image.ts';
import { TestStore } from '../../fixtures/storage/store.ts';
import { freePort, type Registry, serveRegistry } from '../../support/registry.ts';
import { findTool } from '../../support/tool.ts';

const signal = AbortSignal.timeout(600_000);
const keys = {
  ecdsa: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  rsa: generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ed25519: generateKeyPairSync('ed25519'),
  other: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
};
const pem = (key: KeyObject): string => String(key.export({ type: 'spki', format: 'pem' }));
const image = makeImage([{ entries: [{ name: 'signed', content: 'by us' }] }]);
const unsigned = makeImage([{ entries: [{ name: 'unsigned' }] }]);
const indexed = makeImage([{ entries: [{ name: 'indexed' }] }]);
const platform = { os: 'linux', architecture: process.arch === 'x64' ? 'amd64' : process.arch };
const missing = ['docker-registry'].filter((tool) => findTool(tool) === undefined);

let dir = '';
let registry: Registry;
let base = '';

const push = (repository: string, tag: string, what: TestImage): Promise<void> => pushImage(base, repository, tag, what);

/** Puts a signature beside an image: for `digest` by `key`, as `name`. */
async function attach(
  repository: string,
  digest: string,
  signed: readonly { key: KeyObject; name?: string; digest?: string; spoil?: boolean }[],
): Promise<void> {
  const made = signed.map(({ key, name = `${registry.address}/${repository}`, digest: claimed = digest, spoil = false }) => {
    const claim = claimOf(claimed, name);
    return { claim: spoil ? Buffer.concat([claim, Buffer.from(' ')]) : claim, signature: signClaim(claim, key) };
  });
  await push(repository, signatureTagOf(digest), signatureImage(made));
}

beforeAll(async () => {
  if (missing.length > 0) return;
  dir = mkdtempSync(join(tmpdir(), 'berth-signed-'));
  const port = await freePort();
  registry = await serveRegistry(join(dir, 'data'), join(dir, 'registry.yml'), port);
  base = `http://${registry.address}`;
  for (const kind of ['ecdsa', 'rsa', 'ed25519'] as const) {
    await push(kind, '1', image);
    await attach(kind, image.digest, [{ key: keys[kind].privateKey }]);
  }
  await push('unsigned', '1', unsigned);
  await push('tagged', '1', image);
  await attach('tagged', image.digest, [{ key: keys.other.privateKey }, { key: keys.ecdsa.privateKey, name: `${registry.address}/tagged:1` }]);
  await push('foreign', '1', image);
  await attach('foreign', image.digest, [{ key: keys.other.privateKey }]);
  await push('spoilt', '1', image);
  await attach('spoilt', image.digest, [{ key: keys.ecdsa.privateKey, spoil: true }]);
  await push('moved', '1', unsigned);
  await attach('moved', unsigned.digest, [{ key: keys.ecdsa.privateKey, digest: image.digest }]);
  await push('renamed', '1', image);
  await attach('renamed', image.digest, [{ key: keys.ecdsa.privateKey, name: 'evil.example.com/renamed' }]);
  await push('index', 'one', indexed);
  const manifests = [{ mediaType: indexed.mediaType, digest: indexed.digest, size: indexed.manifest.length, platform }];
  const mediaType = 'application/vnd.oci.image.index.v1+json';
  const body = JSON.stringify({ schemaVersion: 2, mediaType, manifests });
  const answer = await fetch(`${base}/v2/index/manifests/1`, { method: 'PUT', body, headers: { 'content-type': mediaType } });
  expect(answer.ok).toBe(true);
  await attach('index', answer.headers.get('docker-content-digest') as string, [{ key: keys.ecdsa.privateKey }]);
});

afterAll(async () => {
  if (dir === '') return;
  await registry[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

interface Held extends AsyncDisposable {
  readonly store: TestStore;
  readonly pull: (repository: string, options?: { namespace?: string }) => Promise<{ readonly id: string }>;
  readonly write: (policy: unknown) => void;
}

/** A store whose policy is this one. */
async function held(policy: unknown): Promise<Held> {
  const path = join(dir, `policy-${Math.random()}.json`);
  const write = (next: unknown): void => writeFileSync(path, JSON.stringify(next));
  write(policy);
  const store = await TestStore.open({ signaturePolicy: path, signaturePolicyDir: join(dir, 'policies') });
  writeFileSync(join(store.dir, 'registries.conf'), `[[registry]]\nlocation = "${registry.address}"\ninsecure = true\n`);
  return {
    store,
    write,
    pull: (repository, options = {}) => store.storage.pull(`${registry.address}/${repository}${/[:@]/.test(repository) ? '' : ':1'}`, { signal, ...options }),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

const signedBy = (key: KeyObject, signedIdentity: object = { type: 'matchRepository' }): object => ({
  type: 'sigstoreSigned',
  keyData: Buffer.from(pem(key)).toString('base64'),
  signedIdentity,
});
const byDefault = (...requirements: object[]): object => ({ default: requirements });

describe.skipIf(missing.length > 0)('a signature policy', () => {
  test.each(['ecdsa', 'rsa', 'ed25519'] as const)('lets in what is signed by a key of the kind %s, in a file or in itself', async (kind) => {
    const path = join(dir, `${kind}.pub`);
    writeFileSync(path, pem(keys[kind].publicKey));
    await using at = await held(byDefault({ type: 'sigstoreSigned', keyPath: path, signedIdentity: { type: 'matchRepository' } }));
    expect((await at.pull(kind)).id).toBe(image.id);
    at.write(byDefault(signedBy(keys[kind].publicKey)));
    expect((await at.pull(kind)).id).toBe(image.id);
  });

  test.each<[string, string, object, RegExp]>([
    ['is not signed', 'unsigned', { type: 'matchRepository' }, /unsigned:1 has no signature \(policy .*, default\)$/],
    ['is signed by another key', 'foreign', { type: 'matchRepository' }, /no signature that counts: not signed by a key of the policy/],
    ['has a signature for other bytes', 'spoilt', { type: 'matchRepository' }, /not signed by a key of the policy/],
    ['has the signature of another image', 'moved', { type: 'matchRepository' }, /signed for the other image sha256:/],
    ['is signed under another name', 'renamed', { type: 'matchRepository' }, /signed as "evil.example.com\/renamed", which is no match by matchRepository/],
    ['is signed without its tag', 'ecdsa', { type: 'matchRepoDigestOrExact' }, /no match by matchRepoDigestOrExact/],
  ])('keeps out what %s, and nothing of it is left', async (_what, repository, identity, why) => {
    await using at = await held(byDefault(signedBy(keys.ecdsa.publicKey, identity)));
    const failed = at.pull(repository);
    await expect(failed).rejects.toMatchObject({ kind: 'unknown', message: expect.stringMatching(/^SignatureValidationFailed: image /) });
    await expect(failed).rejects.toThrow(why);
    expect(await at.store.leftovers()).toMatchObject({ staging: [], images: 0, layers: 0 });
  });

  test('lets in by its identity: with its tag, by digest, by another name', async () => {
    const { publicKey } = keys.ecdsa;
    await using at = await held(byDefault(signedBy(publicKey, { type: 'matchExact' })));
    await at.pull('tagged');
    await expect(at.pull(`tagged@${image.digest}`)).rejects.toThrow('SignatureValidationFailed');
    at.write(byDefault(signedBy(publicKey, { type: 'matchRepoDigestOrExact' })));
    await at.pull(`ecdsa@${image.digest}`);
    at.write(byDefault(signedBy(publicKey, { type: 'exactRepository', dockerRepository: 'evil.example.com/renamed' })));
    await at.pull('renamed');
    at.write(byDefault(signedBy(publicKey, { type: 'remapIdentity', prefix: registry.address, signedPrefix: 'evil.example.com' })));
    await at.pull(`renamed@${image.digest}`);
  });

  test('lets in a manifest whose index is signed', async () => {
    await using at = await held(byDefault(signedBy(keys.ecdsa.publicKey)));
    expect((await at.pull('index')).id).toBe(indexed.id);
    await expect(at.pull('index:one')).rejects.toThrow('has no signature');
  });

  test('wants all of its requirements, each by any of its keys', async () => {
    const both = [keys.other, keys.ecdsa].map(({ publicKey }) => Buffer.from(pem(publicKey)).toString('base64'));
    await using at = await held(byDefault({ type: 'sigstoreSigned', keyDatas: both, signedIdentity: { type: 'matchRepository' } }));
    await at.pull('ecdsa');
    at.write(byDefault(signedBy(keys.ecdsa.publicKey), signedBy(keys.other.publicKey)));
    await at.pull('tagged');
    await expect(at.pull('ecdsa')).rejects.toThrow('not signed by a key of the policy');
  });

  test('goes by scope; what it cannot check is refused by name', async () => {
    const docker = {
      [registry.address]: [{ type: 'insecureAcceptAnything' }],
      [`${registry.address}/foreign`]: [{ type: 'reject' }],
      [`${registry.address}/rsa`]: [{ type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' }],
      [`${registry.address}/ed25519`]: [{ type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyPath: '/r' }],
    };
    await using at = await held({ default: [{ type: 'reject' }], transports: { docker } });
    await at.pull('unsigned');
    await expect(at.pull('foreign')).rejects.toThrow(/is rejected \(policy .*, scope ".*\/foreign"\)/);
    await expect(at.pull('rsa')).rejects.toThrow('would have to be signedBy, which Berth does not check');
    await expect(at.pull('ed25519')).rejects.toThrow('would have to be sigstoreSigned with rekorPublicKeyPath, which Berth does not check');
  });

  test('holds also what is in the store already, when it is pulled again', async () => {
    await using at = await held(byDefault({ type: 'insecureAcceptAnything' }));
    await at.pull('unsigned');
    at.write(byDefault({ type: 'reject' }));
    await expect(at.pull('unsigned')).rejects.toThrow('is rejected');
    expect(at.store.storage.find(`${registry.address}/unsigned:1`)).toBeDefined();
  });

  test('of a namespace stands in the place of the other', async () => {
    mkdirSync(join(dir, 'policies'), { recursive: true });
    writeFileSync(join(dir, 'policies', 'strict.json'), JSON.stringify(byDefault({ type: 'reject' })));
    await using at = await held(byDefault({ type: 'insecureAcceptAnything' }));
    const [strict, lax, escaping] = await Promise.allSettled([
      at.pull('unsigned', { namespace: 'strict' }),
      at.pull('unsigned', { namespace: 'lax' }),
      at.pull('unsigned', { namespace: '../policies/strict' }),
    ]);
    expect([strict, lax, escaping].map((result) => result?.status)).toEqual(['rejected', 'fulfilled', 'fulfilled']);
  });

  test('that is missing, broken, or whose key is, lets nothing in', async () => {
    await using at = await held(byDefault({ type: 'sigstoreSigned', keyPath: join(dir, 'no.pub') }));
    await expect(at.pull('ecdsa')).rejects.toThrow(/^SignatureValidationFailed: public key .*no.pub: ENOENT/);
    writeFileSync(join(dir, 'no.pub'), String(keys.ecdsa.privateKey.export({ type: 'pkcs8', format: 'pem' })));
    await expect(at.pull('ecdsa')).rejects.toThrow('is not a public key in PEM');
    rmSync(join(dir, 'no.pub'));
    at.write({ defaults: [] });
    await expect(at.pull('ecdsa')).rejects.toThrow(/^SignatureValidationFailed: signature policy .* has the unknown key "defaults"/);
    await using without = await TestStore.open({ signaturePolicy: join(dir, 'absent.json') });
    await expect(without.storage.pull('example.com/x', { signal })).rejects.toThrow('absent.json cannot be read');
  });
});

if (missing.length > 0) test(`signatures need ${missing.join(', ')}`, ({ skip }) => skip('not installed'));
