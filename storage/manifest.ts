import { CriError, quote } from '#base/errors.ts';
import { knownArtifact } from './artifact.ts';
import { type Digest, parseDigest } from './digest.ts';
import type { ImageConfig } from './image.ts';
import { formatPlatform, type Platform, platformRank } from './platform.ts';

/** Manifests and configs are a few kB; a registry may not make the daemon hold more than this. The distribution spec asks for at least 4 MiB. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
export const MAX_CONFIG_BYTES = 4 * 1024 * 1024;

/** Of the kernel's 500, one is for the empty directory of read-only mounts. Source: fs/overlayfs/params.h, OVL_MAX_STACK. */
export const MAX_LAYERS = 499;

/** A blob as a manifest names it. */
export interface Descriptor {
  readonly digest: Digest;
  readonly sizeBytes: number;
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

export { hostPlatform, type Platform } from './platform.ts';

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
  const known = knownArtifact([document.artifactType, asObject(document.config).mediaType]);
  if (known !== undefined) throw refuse(`is ${known}, not a container image`);
  throw refuse(`has a manifest of the unknown type ${quote(type)}`);
}

function parseImage(document: Record<string, unknown>, name: string, refuse: (why: string) => CriError): ImageManifest {
  const config = asObject(document.config);
  const entries = Array.isArray(document.layers) ? document.layers.map(asObject) : undefined;
  if (config.mediaType !== TYPE.ociConfig && config.mediaType !== TYPE.dockerConfig) {
    const types = [document.artifactType, config.mediaType, ...(entries ?? []).map(({ mediaType }) => mediaType)];
    const known = knownArtifact(types) ?? `an artifact of type ${quote(types.find((type) => type !== undefined) ?? null)}`;
    throw refuse(`is ${known}, not a container image`);
  }
  if (entries === undefined) throw refuse('has a manifest without layers');
  if (entries.length > MAX_LAYERS) throw refuse(`has ${entries.length} layers, more than the ${MAX_LAYERS} that overlayfs mounts`);
  const layers = entries.map((layer) => {
    checkLayerType(String(layer.mediaType), refuse);
    return parseDescriptor(layer, `a layer of image ${name}`);
  });
  return { config: parseDescriptor(config, `the config of image ${name}`), layers };
}

function checkLayerType(type: string, refuse: (why: string) => CriError): void {
  if (LAYER_TYPE.test(type)) return;
  if (FOREIGN_LAYER_TYPE.test(type)) throw refuse('has a foreign layer, whose bytes no registry holds (such as the base layers of Windows)');
  if (type.endsWith('+encrypted')) throw refuse('has an encrypted layer, which Berth cannot decrypt');
  const known = knownArtifact([type]);
  throw refuse(known === undefined ? `has a layer of the unknown type ${quote(type)}` : `is ${known}, not a container image`);
}

/** The entry that runs best on the platform; of equal ones the first. An entry without a platform is taken only when it is alone. */
function choose(index: Record<string, unknown>, platform: Platform, name: string): Descriptor {
  const entries = Array.isArray(index.manifests) ? index.manifests.map(asObject) : [];
  let best: { entry: Record<string, unknown>; rank: number } | undefined;
  for (const entry of entries) {
    const { os, architecture, variant } = asObject(entry.platform);
    const rank = platformRank({ os, architecture, variant }, platform);
    if (rank !== undefined && (best === undefined || rank < best.rank)) best = { entry, rank };
  }
  const entry = best?.entry ?? (entries.length === 1 && entries[0]?.platform === undefined ? entries[0] : undefined);
  if (entry !== undefined) return parseDescriptor(entry, `a manifest of image ${name}`);
  const offered = entries.flatMap((other) => {
    const { os, architecture, variant } = asObject(other.platform);
    // Attestations lie in an index as `unknown/unknown`.
    return typeof os !== 'string' || typeof architecture !== 'string' || os === 'unknown'
      ? []
      : [[os, architecture, ...(variant === undefined ? [] : [variant])].join('/')];
  });
  const known = entries.length === 0 ? undefined : knownArtifact(entries.map(({ artifactType }) => artifactType));
  if (known !== undefined && offered.length === 0) throw new CriError('invalidArgument', `image ${name} is ${known}, not a container image`);
  throw new CriError('notFound', `image ${name} is not for ${formatPlatform(platform)}: its index offers ${[...new Set(offered)].join(', ') || 'no platform'}`);
}

/** @throws {CriError} `invalidArgument` naming `what` and its bad part. */
export function parseDescriptor(value: Record<string, unknown>, what: string): Descriptor {
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
