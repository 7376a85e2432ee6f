import { mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type IdentityMatch, matchesIdentity } from '../../../storage/identity.ts';
import { loadPolicy, type Policy, parsePolicy } from '../../../storage/policy.ts';
import { parseReference } from '../../../storage/reference.ts';

const digest = `sha256:${'1'.repeat(64)}`;
const accept = [{ type: 'insecureAcceptAnything' }];
const reject = [{ type: 'reject' }];
const parse = (policy: unknown): Policy => parsePolicy(JSON.stringify(policy), '/p.json');
const scopeOf = (scopes: readonly string[], name: string): string =>
  parse({ default: reject, transports: { docker: Object.fromEntries(scopes.map((scope) => [scope, accept])) } }).ruleFor(parseReference(name)).scope;

describe('ruleFor()', () => {
  test.each([
    ['the image itself', ['a.com/b/c:1', 'a.com/b/c', 'a.com/b'], 'a.com/b/c:1', 'a.com/b/c:1'],
    ['its digest rather than its tag', ['a.com/b/c:1', `a.com/b/c@${digest}`], `a.com/b/c:1@${digest}`, `a.com/b/c@${digest}`],
    ['its repository', ['a.com/b/c', 'a.com/b', 'a.com'], 'a.com/b/c:2', 'a.com/b/c'],
    ['what is above it', ['a.com/b', 'a.com'], 'a.com/b/c/d:2', 'a.com/b'],
    ['no other one that begins alike', ['a.com/b', 'a.com'], 'a.com/bc', 'a.com'],
    ['its host with its port', ['a.com:5000', 'a.com'], 'a.com:5000/x', 'a.com:5000'],
    ['the longest wildcard, without the port', ['*.com', '*.b.com'], 'a.b.com:5000/x', '*.b.com'],
    ['its host before a wildcard', ['*.b.com', 'a.b.com'], 'a.b.com/x', 'a.b.com'],
    ['the default of the transport', ['', 'b.com'], 'a.com/x', ''],
    ['the default of all', ['b.com'], 'a.com/x', 'default'],
    ['the full name of a short one', ['docker.io/library/busybox'], 'busybox', 'docker.io/library/busybox'],
  ])('goes by %s', (_what, scopes, name, expected) => {
    expect(scopeOf(scopes, name)).toBe(expected);
  });
});

describe('parsePolicy()', () => {
  const signed = (more: object): unknown => ({ default: [{ type: 'sigstoreSigned', ...more }] });
  const requirements = (policy: unknown) => parse(policy).ruleFor(parseReference('a.com/x')).requirements;

  test('reads keys of all four kinds', () => {
    const identity = { type: 'matchRepoDigestOrExact' };
    const keyData = Buffer.from('PEM').toString('base64');
    expect(requirements(signed({ keyPath: '/k' }))).toEqual([{ type: 'sigstoreSigned', keys: [{ path: '/k' }], identity }]);
    expect(requirements(signed({ keyPaths: ['/a', '/b'] }))).toMatchObject([{ keys: [{ path: '/a' }, { path: '/b' }] }]);
    expect(requirements(signed({ keyData }))).toMatchObject([{ keys: [{ pem: 'PEM' }] }]);
    expect(requirements(signed({ keyDatas: [keyData, keyData] }))).toMatchObject([{ keys: [{ pem: 'PEM' }, { pem: 'PEM' }] }]);
  });

  test('keeps what Berth cannot check, by name, for the images that it is about', () => {
    const policy = { default: accept, transports: { docker: { 'a.com': [{ type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' }] } } };
    expect(requirements(policy)).toEqual([{ type: 'unsupported', what: 'signedBy' }]);
    expect(parse(policy).ruleFor(parseReference('b.com/x')).requirements).toEqual(accept);
    expect(requirements(signed({ keyPath: '/k', rekorPublicKeyPath: '/r' }))).toEqual([
      { type: 'unsupported', what: 'sigstoreSigned with rekorPublicKeyPath' },
    ]);
    expect(requirements(signed({ fulcio: {} }))).toEqual([{ type: 'unsupported', what: 'sigstoreSigned with fulcio' }]);
  });

  test.each([
    ['no JSON', '{', 'is not JSON'],
    ['no object', '[]', 'is not an object'],
    ['no default', '{}', 'default is not a list of requirements'],
    ['an empty list', '{"default":[]}', 'default is not a list'],
    ['an unknown key', '{"default":[{"type":"reject"}],"defaults":1}', 'unknown key "defaults"'],
    ['an unknown type', '{"default":[{"type":"accept"}]}', 'default[0] has the unknown type "accept"'],
    ['an unknown key of a requirement', '{"default":[{"type":"reject","keyPath":"/k"}]}', 'default[0] has the unknown key "keyPath"'],
    ['a bad scope', '{"default":[{"type":"reject"}],"transports":{"docker":{"a.com":{}}}}', 'transports.docker["a.com"] is not a list'],
    ['no key', '{"default":[{"type":"sigstoreSigned"}]}', 'has none of keyPath'],
    ['two keys', '{"default":[{"type":"sigstoreSigned","keyPath":"/a","keyData":"x"}]}', 'has more than one of keyPath'],
    ['a bad list of keys', '{"default":[{"type":"sigstoreSigned","keyPaths":[]}]}', 'keyPaths is not a list of strings'],
    ['a bad identity', '{"default":[{"type":"sigstoreSigned","keyPath":"/a","signedIdentity":{"type":"any"}}]}', 'signedIdentity has the unknown type "any"'],
    [
      'an identity without a tag',
      '{"default":[{"type":"sigstoreSigned","keyPath":"/a","signedIdentity":{"type":"exactReference","dockerReference":"a.com/x"}}]}',
      'has neither tag nor digest',
    ],
  ])('lets nothing in by a policy with %s', (_what, text, why) => {
    expect(() => parsePolicy(text, '/p.json')).toThrow(/^SignatureValidationFailed: signature policy \/p.json: /);
    expect(() => parsePolicy(text, '/p.json')).toThrow(why);
  });
});

test('loadPolicy() accepts anything where a policy need not be, and nothing where it must be', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-policy-'));
  const path = join(dir.path, 'policy.json');
  expect((await loadPolicy(path, { optional: true })).ruleFor(parseReference('a')).requirements).toEqual(accept);
  await expect(loadPolicy(path, { optional: false })).rejects.toThrow(`SignatureValidationFailed: signature policy ${path} cannot be read`);
  await writeFile(path, JSON.stringify({ default: reject }));
  expect((await loadPolicy(path, { optional: true })).ruleFor(parseReference('a')).requirements).toEqual(reject);
});

describe('matchesIdentity()', () => {
  const remap: IdentityMatch = { type: 'remapIdentity', prefix: 'mirror.com/hub', signedPrefix: 'a.com' };
  test.each<[string, string, IdentityMatch, boolean]>([
    ['a.com/x:1', 'a.com/x:1', { type: 'matchExact' }, true],
    ['a.com/x:2', 'a.com/x:1', { type: 'matchExact' }, false],
    ['a.com/x', 'a.com/x:latest', { type: 'matchExact' }, false],
    ['a.com/x:1', `a.com/x@${digest}`, { type: 'matchExact' }, false],
    [`a.com/x@${digest}`, `a.com/x@${digest}`, { type: 'matchExact' }, true],
    ['a.com/x:1', 'a.com/x:1', { type: 'matchRepoDigestOrExact' }, true],
    ['a.com/x', 'a.com/x:1', { type: 'matchRepoDigestOrExact' }, false],
    ['a.com/x:2', `a.com/x@${digest}`, { type: 'matchRepoDigestOrExact' }, true],
    ['a.com/y:2', `a.com/x@${digest}`, { type: 'matchRepoDigestOrExact' }, false],
    ['a.com/x', 'a.com/x:1', { type: 'matchRepository' }, true],
    ['a.com/x/y', 'a.com/x:1', { type: 'matchRepository' }, false],
    ['index.docker.io/library/busybox', 'busybox:1', { type: 'matchRepository' }, true],
    ['b.com/y:3', 'a.com/x:1', { type: 'exactReference', reference: 'b.com/y:3' }, true],
    ['b.com/y:4', 'a.com/x:1', { type: 'exactReference', reference: 'b.com/y:3' }, false],
    ['b.com/y', 'a.com/x:1', { type: 'exactRepository', repository: 'b.com/y' }, true],
    ['a.com/x:1', 'mirror.com/hub/x:1', remap, true],
    ['a.com/x:1', 'mirror.com/hubs/x:1', remap, false],
    ['other.com/x:1', 'other.com/x:1', remap, true],
    ['not a name', 'a.com/x:1', { type: 'matchRepository' }, false],
  ])('%s for %s by %j: %s', (signed, pulled, match, expected) => {
    expect(matchesIdentity(signed, parseReference(pulled), match)).toBe(expected);
  });
});
