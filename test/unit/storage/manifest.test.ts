import { describe, expect, test } from 'vitest';
import { chainIds, type Digest, digestOf } from '../../../storage/digest.ts';
import { parseConfig, parseManifest } from '../../../storage/manifest.ts';

const amd64 = { os: 'linux', architecture: 'amd64', variants: ['v3', 'v2', 'v1', ''] };
const digest = `sha256:${'1'.repeat(64)}` as Digest;
const ociConfig = { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: 10 };
const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 20 };
const manifest = (more: object): string =>
  JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json', config: ociConfig, layers: [layer], ...more });
const parse = (text: string, type = '') => parseManifest(text, type, amd64, 'a.com/x:1');

describe('parseManifest()', () => {
  test('reads images of OCI and Docker, typed by themselves or by the header', () => {
    const image = { config: { digest, sizeBytes: 10 }, layers: [{ digest, sizeBytes: 20 }] };
    expect(parse(manifest({}))).toEqual({ image });
    expect(parse(manifest({ mediaType: undefined }), 'application/vnd.oci.image.manifest.v1+json; charset=utf-8')).toEqual({ image });
    const docker = {
      mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
      config: { ...ociConfig, mediaType: 'application/vnd.docker.container.image.v1+json' },
      layers: [{ ...layer, mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip' }],
    };
    expect(parse(manifest(docker))).toEqual({ image });
  });

  test('takes the entry of an index for the platform', () => {
    const other = { digest: `sha256:${'2'.repeat(64)}`, size: 1, platform: { os: 'linux', architecture: 'arm64' } };
    const attestation = { digest: `sha256:${'3'.repeat(64)}`, size: 1, platform: { os: 'unknown', architecture: 'unknown' } };
    const index = (manifests: object[]): string => JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests });
    expect(parse(index([other, attestation, { digest, size: 7, platform: { os: 'linux', architecture: 'amd64' } }]))).toEqual({
      next: { digest, sizeBytes: 7 },
    });
    expect(() => parse(index([other, attestation]))).toThrow('image a.com/x:1 is not for linux/amd64: its index offers linux/arm64');
  });

  test.each([
    ['the best that runs here', amd64, ['v1', 'v4', 'v2', 'v3'], 3],
    ['the first of equal ones', amd64, [undefined, undefined], 0],
    ['what names no variant before a better one than the machine', amd64, ['v4', undefined], 1],
    ['v7 before v6 on arm', { os: 'linux', architecture: 'arm', variants: ['v7', 'v6', 'v5', ''] }, ['v6', 'v7', undefined], 1],
    ['v8 on arm64, said or not', { os: 'linux', architecture: 'arm64', variants: ['v8', ''] }, [undefined], 0],
  ])('takes of several variants %s', (_what, platform, variants, chosen) => {
    const { os, architecture } = platform;
    const manifests = variants.map((variant, index) => ({ digest: `sha256:${String(index).repeat(64)}`, size: 1, platform: { os, architecture, variant } }));
    const index = JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests });
    expect(parseManifest(index, '', platform, 'x')).toEqual({ next: { digest: `sha256:${String(chosen).repeat(64)}`, sizeBytes: 1 } });
  });

  test('names the variants of an index that has none for the machine', () => {
    const manifests = ['v5', 'v6'].map((variant) => ({ digest, size: 1, platform: { os: 'linux', architecture: 'arm', variant } }));
    const index = JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests });
    const armv4 = { os: 'linux', architecture: 'arm', variants: ['v4', ''] };
    expect(() => parseManifest(index, '', armv4, 'x')).toThrow('image x is not for linux/arm/v4: its index offers linux/arm/v5, linux/arm/v6');
  });

  test.each([
    [
      'a Helm chart',
      { config: { ...ociConfig, mediaType: 'application/vnd.cncf.helm.config.v1+json' } },
      'image a.com/x:1 is a Helm chart, not a container image',
    ],
    ['a wasm module', { config: { ...ociConfig, mediaType: 'application/vnd.wasm.config.v1+json' } }, 'is a WebAssembly module'],
    ['wasm in an image config', { layers: [{ ...layer, mediaType: 'application/vnd.wasm.content.layer.v1+wasm' }] }, 'is a WebAssembly module'],
    [
      'what ORAS pushes without a type',
      { config: { ...ociConfig, mediaType: 'application/vnd.unknown.config.v1+json' } },
      'is an artifact of type "application/vnd.unknown.config.v1+json"',
    ],
    [
      'a signature of cosign',
      { layers: [{ ...layer, mediaType: 'application/vnd.dev.cosign.simplesigning.v1+json' }] },
      'is a signature made by cosign, not a container image',
    ],
    ['an SBOM', { artifactType: 'application/spdx+json', config: { ...ociConfig, mediaType: 'application/vnd.oci.empty.v1+json' } }, 'is a bill of materials'],
    ['a Docker plugin', { config: { ...ociConfig, mediaType: 'application/vnd.docker.plugin.v1+json' } }, 'is a plugin of the Docker Engine'],
    ['too many layers', { layers: Array.from({ length: 500 }, () => layer) }, 'has 500 layers, more than the 499 that overlayfs mounts'],
  ])('refuses %s with a sentence that says what it is', (_what, more, why) => {
    expect(() => parse(manifest(more))).toThrow(why);
  });

  test.each([
    ['schema 1', JSON.stringify({ schemaVersion: 1 }), 'Docker schema 1'],
    [
      'an artifact',
      manifest({ config: { ...ociConfig, mediaType: 'application/vnd.oci.empty.v1+json' }, artifactType: 'application/x.chart' }),
      'artifact of type "application/x.chart"',
    ],
    ['a foreign layer', manifest({ layers: [{ ...layer, mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' }] }), 'foreign layer'],
    ['an encrypted layer', manifest({ layers: [{ ...layer, mediaType: `${layer.mediaType}+encrypted` }] }), 'encrypted layer'],
    ['two documents in one', manifest({ manifests: [] }), 'also an index'],
    ['a bad digest', manifest({ config: { ...ociConfig, digest: 'sha256:x' } }), 'digest of the config of image a.com/x:1'],
    ['a bad size', manifest({ layers: [{ ...layer, size: -1 }] }), 'size of a layer'],
    ['no JSON', '<html>', 'not JSON'],
    ['null', 'null', 'unknown schema version'],
  ])('refuses %s by what it is', (_what, text, why) => {
    expect(() => parse(text)).toThrow(why);
  });
});

test('parseConfig() reads what a container needs, and fills in what is not there', () => {
  const text = JSON.stringify({
    os: 'linux',
    architecture: 'amd64',
    config: { Entrypoint: ['/a'], Cmd: null, Env: ['A=b'], User: '1', WorkingDir: '/w', StopSignal: 'SIGQUIT', Volumes: { '/v': {} }, Labels: { l: 'm' } },
    rootfs: { type: 'layers', diff_ids: [digest] },
  });
  expect(parseConfig(text, 'x')).toEqual({
    os: 'linux',
    architecture: 'amd64',
    diffIds: [digest],
    config: { entrypoint: ['/a'], cmd: [], env: ['A=b'], user: '1', workingDir: '/w', stopSignal: 'SIGQUIT', volumes: ['/v'], labels: { l: 'm' } },
  });
  expect(parseConfig('{"rootfs":{"diff_ids":[]}}', 'x').config).toMatchObject({ entrypoint: [], user: '', labels: {} });
  expect(() => parseConfig('{"rootfs":{"diff_ids":[]},"config":{"Cmd":"sh"}}', 'x')).toThrow('image x has a config whose Cmd is "sh"');
  expect(() => parseConfig('{}', 'x')).toThrow('rootfs.diff_ids');
});

test('chainIds() begins with the first diff id and hashes each with what is below', () => {
  const second = `sha256:${'2'.repeat(64)}` as Digest;
  expect(chainIds([digest, second])).toEqual([digest, digestOf(`${digest} ${second}`)]);
});
