import { CriError, quote } from '#base/errors.ts';
import { type Digest, parseDigest } from './digest.ts';

/** A parsed image name, complete: `busybox` has become docker.io, library/busybox, latest. Made by `parseReference` only. */
export interface ImageReference {
  /** Host with an optional port: `docker.io`, `localhost:5000`. */
  readonly registry: string;
  /** `library/busybox`. */
  readonly repository: string;
  /** `latest` where neither tag nor digest was given; with a digest it is only what the name showed. */
  readonly tag: string | undefined;
  readonly digest: Digest | undefined;
  /** False when the name left the registry out. */
  readonly qualified: boolean;
}

const MAX_NAME_LENGTH = 255;
const HOST_PART = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const REGISTRY = new RegExp(String.raw`^(?:${HOST_PART}(?:\.${HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?$`);
const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^\w[\w.-]{0,127}$/;

/**
 * Parses `[registry/]repository[:tag][@digest]`, filling in what Docker's names leave out: docker.io, `library/`, `:latest`.
 * Source of the grammar: the reference package of the distribution project, and the OCI distribution spec, "Pulling manifests".
 * @throws {CriError} `invalidArgument` naming the reference and its bad part.
 */
export function parseReference(text: string): ImageReference {
  const refuse = (why: string): CriError => new CriError('invalidArgument', `image reference ${quote(text)} ${why}`);
  if (text === '') throw refuse('is empty');
  const at = text.indexOf('@');
  const digest = at < 0 ? undefined : parseDigest(text.slice(at + 1), `image reference ${quote(text)}:`);
  const named = at < 0 ? text : text.slice(0, at);
  const colon = named.lastIndexOf(':');
  const tagged = colon > named.lastIndexOf('/');
  const tag = tagged ? named.slice(colon + 1) : undefined;
  const name = tagged ? named.slice(0, colon) : named;
  if (tag !== undefined && !TAG.test(tag)) throw refuse(`has the bad tag ${quote(tag)}`);
  if (name === '') throw refuse('has no name');
  if (name.length > MAX_NAME_LENGTH) throw refuse(`has a name of more than ${MAX_NAME_LENGTH} characters`);
  if (/^[0-9a-f]{64}$/.test(name)) throw refuse('is an image id, not a name');
  const { registry, path, qualified } = splitRegistry(name);
  if (!REGISTRY.test(registry)) throw refuse(`has the bad registry ${quote(registry)}`);
  if (!REPOSITORY.test(path)) throw refuse(path.toLowerCase() === path ? `has the bad repository ${quote(path)}` : 'has upper-case letters in its repository');
  return { registry, repository: inLibrary(registry, path), tag: tag ?? (digest === undefined ? 'latest' : undefined), digest, qualified };
}

function splitRegistry(name: string): { registry: string; path: string; qualified: boolean } {
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  // A first part is a host only if it cannot be a repository's: Docker's rule since there are short names.
  const isHost = first === 'localhost' || /[.:]/.test(first) || first.toLowerCase() !== first;
  if (!isHost) return { registry: 'docker.io', path: name, qualified: false };
  return { registry: canonicalRegistry(first), path: name.slice(slash + 1), qualified: true };
}

/** Docker Hub has several names; all become `docker.io`. */
export function canonicalRegistry(host: string): string {
  return host === 'index.docker.io' || host === 'registry-1.docker.io' ? 'docker.io' : host;
}

/** The host to connect to: Docker Hub's is not its name. */
export function registryHost(registry: string): string {
  return registry === 'docker.io' ? 'registry-1.docker.io' : registry;
}

function inLibrary(registry: string, path: string): string {
  return registry === 'docker.io' && !path.includes('/') ? `library/${path}` : path;
}

/** The same image name at another registry, as `unqualified-search-registries` asks for. */
export function atRegistry(reference: ImageReference, registry: string): ImageReference {
  const path = reference.registry === 'docker.io' ? reference.repository.replace(/^library\//, '') : reference.repository;
  return { ...reference, registry, repository: inLibrary(registry, path), qualified: true };
}

/** `registry/repository`. */
export function repositoryName({ registry, repository }: ImageReference): string {
  return `${registry}/${repository}`;
}

/** `registry/repository:tag`; `undefined` when there is only a digest. */
export function taggedName(reference: ImageReference): string | undefined {
  return reference.tag === undefined || reference.digest !== undefined ? undefined : `${repositoryName(reference)}:${reference.tag}`;
}

/** The whole name, with what was given of tag and digest. */
export function formatReference(reference: ImageReference): string {
  const { tag, digest } = reference;
  return `${repositoryName(reference)}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
}
