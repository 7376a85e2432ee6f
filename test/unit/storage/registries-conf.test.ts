import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { formatReference, parseReference } from '../../../storage/reference.ts';
import { loadRegistriesConf, parseRegistriesConf } from '../../../storage/registries-file.ts';

const parse = (text: string) => parseRegistriesConf([{ path: '/etc/x.conf', text }]);
const places = (text: string, name: string): string[] =>
  parse(text)
    .endpoints(parseReference(name))
    .map(({ host, repository, insecure, mirror }) => `${host} ${repository}${insecure ? ' insecure' : ''}${mirror ? ' mirror' : ''}`);

describe('endpoints()', () => {
  test('is the registry itself when nothing is configured', () => {
    expect(places('', 'registry.k8s.io/pause:3.9')).toEqual(['registry.k8s.io pause']);
  });

  test('puts mirrors in order before the location', () => {
    const text = `
      [[registry]]
      prefix = "registry.k8s.io"
      location = "127.0.0.1:5000/k8s"
      insecure = true
      [[registry.mirror]]
      location = "mirror.one/cache"
      [[registry.mirror]]
      location = "mirror.two"
      insecure = true`;
    expect(places(text, 'registry.k8s.io/a/pause:3.9')).toEqual([
      'mirror.one cache/a/pause mirror',
      'mirror.two a/pause insecure mirror',
      '127.0.0.1:5000 k8s/a/pause insecure',
    ]);
  });

  test('takes the longest prefix, which ends at a boundary', () => {
    const text = `
      [[registry]]
      location = "example.com"
      [[registry]]
      prefix = "example.com/foo"
      location = "other.com/bar"
      [[registry]]
      prefix = "example.com/foo/app:v1"
      location = "pinned.com/app"`;
    expect(places(text, 'example.com/foo/app:v2')).toEqual(['other.com bar/app']);
    expect(places(text, 'example.com/foobar:v2')).toEqual(['example.com foobar']);
    expect(places(text, 'example.com/foo/app:v1')).toEqual(['pinned.com app']);
  });

  test('lets *.host stand for subdomains', () => {
    const text = '[[registry]]\nprefix = "*.example.com"\nlocation = "cache.net/x"\ninsecure = true';
    expect(places(text, 'a.b.example.com:5000/app')).toEqual(['cache.net x/app insecure']);
    expect(places(text, 'example.com/app')).toEqual(['example.com app']);
    expect(places('[[registry]]\nprefix = "*.example.com"\ninsecure = true', 'a.example.com/app')).toEqual(['a.example.com app insecure']);
  });

  test('keeps mirrors for digests or tags apart', () => {
    const text = `
      [[registry]]
      location = "example.com"
      [[registry.mirror]]
      location = "by.digest"
      pull-from-mirror = "digest-only"
      [[registry.mirror]]
      location = "by.tag"
      pull-from-mirror = "tag-only"`;
    expect(places(text, 'example.com/a:1')).toEqual(['by.tag a mirror', 'example.com a']);
    expect(places(text, `example.com/a@sha256:${'0'.repeat(64)}`)).toEqual(['by.digest a mirror', 'example.com a']);
  });

  test('takes mirror-by-digest-only for all mirrors', () => {
    const text = '[[registry]]\nlocation = "example.com"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "by.digest"';
    expect(places(text, 'example.com/a:1')).toEqual(['example.com a']);
    expect(places(text, `example.com/a:1@sha256:${'0'.repeat(64)}`)).toEqual(['by.digest a mirror', 'example.com a']);
  });

  test('takes a subdomain before a wildcard, and the longer wildcard before the shorter', () => {
    const text = ['*.example.com', '*.a.example.com', 'b.a.example.com']
      .map((prefix, index) => `[[registry]]\nprefix = "${prefix}"\nlocation = "r${index}.net"`)
      .join('\n');
    expect(['x.example.com/i', 'x.a.example.com/i', 'b.a.example.com/i'].flatMap((name) => places(text, name))).toEqual(['r0.net i', 'r1.net i', 'r2.net i']);
  });

  test('refuses a blocked registry', () => {
    expect(() => places('[[registry]]\nlocation = "bad.com"\nblocked = true', 'bad.com/a')).toThrow('registry bad.com is blocked');
  });
});

describe('candidates()', () => {
  const names = (text: string, name: string): string[] => parse(text).candidates(parseReference(name)).map(formatReference);

  test('is docker.io for a short name when nothing is configured', () => {
    expect(names('', 'busybox')).toEqual(['docker.io/library/busybox:latest']);
  });

  test('follows the search registries and aliases for short names only', () => {
    const text = 'unqualified-search-registries = ["quay.io", "docker.io"]\n[aliases]\n"tool" = "ghcr.io/org/tool"';
    expect(names(text, 'busybox:1')).toEqual(['quay.io/busybox:1', 'docker.io/library/busybox:1']);
    expect(names(text, 'tool:2')).toEqual(['ghcr.io/org/tool:2']);
    expect(names(text, 'docker.io/busybox')).toEqual(['docker.io/library/busybox:latest']);
  });
});

describe('resolve()', () => {
  const several = 'unqualified-search-registries = ["quay.io", "docker.io"]\n';
  const names = (text: string, name: string, mode?: 'enforcing' | 'permissive'): string[] =>
    parse(text).resolve(parseReference(name), mode).map(formatReference);

  test('refuses a short name that may mean several images, unless the mode lets it try', () => {
    const ambiguous = 'image name "busybox" may mean quay.io/busybox or docker.io/library/busybox, and short-name-mode is enforcing';
    expect(() => names(several, 'busybox')).toThrow(ambiguous);
    expect(() => names(`${several}short-name-mode = "enforcing"`, 'busybox')).toThrow(ambiguous);
    expect(() => names(`${several}short-name-mode = "disabled"`, 'busybox', 'enforcing')).toThrow(ambiguous);
    for (const mode of ['permissive', 'disabled']) {
      expect(names(`${several}short-name-mode = "${mode}"`, 'busybox')).toEqual(['quay.io/busybox:latest', 'docker.io/library/busybox:latest']);
    }
    expect(names(several, 'busybox', 'permissive')).toHaveLength(2);
  });

  test('has no doubt about full names, aliases, and a single search registry', () => {
    expect(names(several, 'quay.io/busybox')).toEqual(['quay.io/busybox:latest']);
    expect(names(`${several}[aliases]\n"busybox" = "quay.io/org/busybox"`, 'busybox')).toEqual(['quay.io/org/busybox:latest']);
    expect(names('unqualified-search-registries = ["quay.io"]', 'busybox')).toEqual(['quay.io/busybox:latest']);
  });
});

test('parseRegistriesConf() lets a later file take back an alias, change the mode and the search registries', () => {
  const files = [
    { path: '/a', text: 'unqualified-search-registries = ["a.com", "b.com"]\nshort-name-mode = "disabled"\n[aliases]\n"tool" = "ghcr.io/org/tool"' },
    { path: '/b', text: 'unqualified-search-registries = ["c.com"]\n[aliases]\n"tool" = ""' },
  ];
  expect(parseRegistriesConf(files).resolve(parseReference('tool')).map(formatReference)).toEqual(['c.com/tool:latest']);
});

test('parseRegistriesConf() tells which keys have no effect', () => {
  expect(parse('credential-helpers = ["containers-auth.json", "secretservice"]').ignored).toEqual(['/etc/x.conf: credential-helpers secretservice']);
  expect(parse('credential-helpers = ["containers-auth.json"]').ignored).toEqual([]);
});

test.each([
  ['[registries.search]\nregistries = []', 'version 1'],
  ['[[registry]]\ninsecure = true', 'neither prefix nor location'],
  ['[[registry]]\nprefix = "a.b"', 'has no location'],
  ['[[registry]]\nlocation = 3', 'location is not a string'],
  ['[[registry]]\nlocation = "a"\ninsecure = "yes"', 'insecure is not true or false'],
  ['registry = [', '/etc/x.conf'],
  ['\n\n[[registry]\n', '/etc/x.conf:3'],
  ['registry = "a"', 'registry is not a list of tables'],
  ['[[registry]]\nlocation = "https://a.com"', 'has a scheme'],
  ['[[registry]]\nprefix = "*.a.com/b"\nlocation = "c.com"', 'is not of the form *.example.com'],
  ['[[registry]]\nprefix = "a.*.com"\nlocation = "c.com"', 'is not of the form *.example.com'],
  ['[[registry]]\nlocation = "a"\n[[registry.mirror]]\ninsecure = true', 'a mirror of "a" has no location'],
  ['[[registry]]\nlocation = "a"\n[[registry.mirror]]\nlocation = "b"\npull-from-mirror = "sometimes"', 'is not all, digest-only or tag-only'],
  [
    '[[registry]]\nlocation = "a"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "b"\npull-from-mirror = "tag-only"',
    'only one of them may say',
  ],
  ['short-name-mode = "strict"', 'short-name-mode "strict" is not enforcing, permissive, disabled'],
  ['unqualified-search-registries = ["https://a.com"]', 'which is no host'],
  ['[aliases]\n"a" = "b"', 'names no registry'],
  ['[aliases]\n"a.com/x" = "b.com/x"', 'not short'],
  ['[aliases]\n"a" = "b.com/x:1"', 'has a tag or a digest'],
  ['[aliases]\n"a" = 1', 'alias "a" is not a string'],
  ['aliases = 1', 'aliases is not a table'],
])('parseRegistriesConf() refuses %j, naming the file', (text, why) => {
  expect(() => parse(text)).toThrow(why);
  expect(() => parse(text)).toThrow('/etc/x.conf');
});

test('loadRegistriesConf() reads drop-ins in order, and a later registry replaces one of the same prefix', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-conf-'));
  const path = join(dir.path, 'registries.conf');
  expect((await loadRegistriesConf(path)).endpoints(parseReference('a.com/x'))).toHaveLength(1);
  await writeFile(path, '[[registry]]\nprefix = "a.com"\nlocation = "one.com"');
  await mkdir(`${path}.d`);
  await writeFile(join(`${path}.d`, '20.conf'), '[[registry]]\nprefix = "a.com"\nlocation = "three.com"');
  await writeFile(join(`${path}.d`, '10.conf'), '[[registry]]\nprefix = "a.com"\nlocation = "two.com"');
  await writeFile(join(`${path}.d`, 'README'), 'not toml');
  expect((await loadRegistriesConf(path)).endpoints(parseReference('a.com/x')).map(({ host }) => host)).toEqual(['three.com']);
});
