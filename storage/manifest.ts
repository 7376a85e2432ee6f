import { CriError, quote } from '#base/errors.ts';
import { type Digest, parseDigest } from './digest.ts';
import type { ImageConfig } from './image.ts';

/** Manifests and configs are a few kB; a registry may not make the daemon hold more than this. The distribution spec asks for at least 4 MiB. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
export const MAX_CONFIG_BYTES = 4 * 1024 * 1024;

/** A blob as a manifest names it. */
export interface Descriptor {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

export interface Platform {
  readonly os: string;
  /** In Go's spelling: `amd64`, `arm64`. */
  readonly architecture: string;
}

export interface ImageManifest {
  readonly config: Descriptor;
  /** Lowest first. */
  readonly layers: readonly Descriptor[];
}

const TYPE = {
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
} as const;

/** For the Accept header of a manifest's GET. */
export const MANIFEST_TYPES: readonly string[] = [TYPE.ociIndex, TYPE.ociManifest, TYPE.dockerList, TYPE.dockerManifest];

const LAYER_TYPE = /^application\/vnd\.(?:oci\.image\.layer\.v1\.tar(?:\+gzip|\+zstd)?|docker\.image\.rootfs\.diff\.tar(?:\.gzip|\.zstd)?)$/;
const FOREIGN_LAYER_TYPE = /\.(?:nondistributable|foreign)\./;

/** The platform whose images this machine runs. */
export function hostPlatform(): Platform {
  return { os: 'linux', architecture: process.arch === 'x64' ? 'amd64' : process.arch };
}

/**
 * What a manifest's bytes are: an image, or an index of which the entry for `platform` is to be fetched next.
 * `contentType` counts only where the document does not say its own type.
 * @throws {CriError} `invalidArgument` saying what it is, when it is nothing that can run; `notFound` when the index has nothing for the platform.
 */
export function parseManifest(text: string, contentType: string, platform: Platform, name: string): { image: ImageManifest } | { next: Descriptor } {
  const refuse = (why: string): CriError => new CriError('invalidArgument', `image ${name} ${why}`);
  const document = asObject(parseJson(text, () => refuse('has a manifest that is not JSON')));
  if (document.schemaVersion === 1) throw refuse('has a manifest of Docker schema 1, which is obsolete: push it again with a current tool');
  if (document.schemaVersion !== 2) throw refuse(`has a manifest of unknown schema version ${quote(document.schemaVersion)}`);
  if (document.manifests !== undefined && document.layers !== undefined) throw refuse('has a manifest that is also an index');
  const type = typeof document.mediaType === 'string' ? document.mediaType : (contentType.split(';')[0] ?? '').trim();
  if (type === TYPE.ociIndex || type === TYPE.dockerList) return { next: choose(document, platform, name) };
  if (type === TYPE.ociManifest || type === TYPE.dockerManifest) return { image: parseImage(document, name, refuse) };
  if (document.mediaType === undefined && Array.isArray(document.manifests)) return { next: choose(document, platform, name) };
  if (document.mediaType === undefined && Array.isArray(document.layers)) return { image: parseImage(document, name, refuse) };
  throw refuse(`has a manifest of the unknown type ${quote(type)}`);
}

function parseImage(document: Record<string, unknown>, name: string, refuse: (why: string) => CriError): ImageManifest {
  const config = asObject(document.config);
  if (config.mediaType !== TYPE.ociConfig && config.mediaType !== TYPE.dockerConfig) {
    throw refuse(`is an artifact of type ${quote(document.artifactType ?? config.mediaType)}, not a container image`);
  }
  if (!Array.isArray(document.layers)) throw refuse('has a manifest without layers');
  const layers = document.layers.map((entry) => {
    const layer = asObject(entry);
    const type = String(layer.mediaType);
    if (FOREIGN_LAYER_TYPE.test(type)) throw refuse('has a foreign layer, whose bytes no registry holds');
    if (!LAYER_TYPE.test(type)) throw refuse(`has a layer of the unknown type ${quote(type)}`);
    return parseDescriptor(layer, `a layer of image ${name}`);
  });
  return { config: parseDescriptor(config, `the config of image ${name}`), layers };
}

/** The first entry for the platform. Entries without a platform are taken only when they are alone. */
function choose(index: Record<string, unknown>, platform: Platform, name: string): Descriptor {
  const entries = Array.isArray(index.manifests) ? index.manifests.map(asObject) : [];
  const found = entries.find((entry) => {
    const { os, architecture } = asObject(entry.platform);
    return os === platform.os && architecture === platform.architecture;
  });
  const entry = found ?? (entries.length === 1 && entries[0]?.platform === undefined ? entries[0] : undefined);
  if (entry !== undefined) return parseDescriptor(entry, `a manifest of image ${name}`);
  const offered = entries.map((other) => {
    const { os, architecture } = asObject(other.platform);
    return `${String(os)}/${String(architecture)}`;
  });
  const known = [...new Set(offered)].filter((text) => !text.includes('unknown') && !text.includes('undefined'));
  throw new CriError('notFound', `image ${name} is not for ${platform.os}/${platform.architecture}: its index offers ${known.join(', ') || 'no platform'}`);
}

function parseDescriptor(value: Record<string, unknown>, what: string): Descriptor {
  const size = value.size;
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) throw new CriError('invalidArgument', `size of ${what} is ${quote(size)}`);
  return { digest: parseDigest(value.digest, what), sizeBytes: size };
}

/** What the config blob of an image says, as far as Berth uses it. */
export interface ParsedConfig {
  readonly os: string;
  readonly architecture: string;
  /** Digests of the uncompressed layers, lowest first. */
  readonly diffIds: readonly Digest[];
  readonly config: ImageConfig;
}

/** @throws {CriError} `invalidArgument` naming the image and the field. */
export function parseConfig(text: string, name: string): ParsedConfig {
  const refuse = (why: string): CriError => new CriError('invalidArgument', `image ${name} ${why}`);
  const document = asObject(parseJson(text, () => refuse('has a config that is not JSON')));
  const diffIds = asObject(document.rootfs).diff_ids;
  if (!Array.isArray(diffIds)) throw refuse('has a config without rootfs.diff_ids');
  const config = asObject(document.config);
  const word = (key: string): string => {
    const value = config[key] ?? '';
    if (typeof value !== 'string') throw refuse(`has a config whose ${key} is ${quote(value)}`);
    return value;
  };
  const words = (key: string): string[] => {
    const value = config[key] ?? [];
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) throw refuse(`has a config whose ${key} is ${quote(value)}`);
    return value;
  };
  return {
    os: String(document.os ?? ''),
    architecture: String(document.architecture ?? ''),
    diffIds: diffIds.map((diffId) => parseDigest(diffId, `an uncompressed layer of image ${name}`)),
    config: {
      entrypoint: words('Entrypoint'),
      cmd: words('Cmd'),
      env: words('Env'),
      user: word('User'),
      workingDir: word('WorkingDir'),
      stopSignal: word('StopSignal'),
      volumes: Object.keys(asObject(config.Volumes)),
      labels: Object.fromEntries(Object.entries(asObject(config.Labels)).map(([key, value]) => [key, String(value)])),
    },
  };
}

function parseJson(text: string, refuse: () => CriError): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw refuse();
  }
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}
