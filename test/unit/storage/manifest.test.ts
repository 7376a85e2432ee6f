import { describe, expect, test } from 'vitest';
import { chainIds, type Digest, digestOf } from '../../../storage/digest.ts';
import { parseConfig, parseManifest } from '../../../storage/manifest.ts';

const amd64 = { os: 'linux', architecture: 'amd64' };
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
    expect(parse(index([other, attestation, { digest, size: 7, platform: amd64 }]))).toEqual({ next: { digest, sizeBytes: 7 } });
    expect(() => parse(index([other, attestation]))).toThrow('image a.com/x:1 is not for linux/amd64: its index offers linux/arm64');
  });

  test.each([
    ['schema 1', JSON.stringify({ schemaVersion: 1 }), 'Docker schema 1'],
    [
      'an artifact',
      manifest({ config: { ...ociConfig, mediaType: 'application/vnd.oci.empty.v1+json' }, artifactType: 'application/x.chart' }),
      'artifact of type "application/x.chart"',
    ],
    ['a foreign layer', manifest({ layers: [{ ...layer, mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' }] }), 'foreign layer'],
    ['an encrypted layer', manifest({ layers: [{ ...layer, mediaType: `${layer.mediaType}+encrypted` }] }), 'unknown type'],
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
