import { type CriError, quote } from '#base/errors.ts';
import { type ImageReference, parseReference, repositoryName } from './reference.ts';

/** Which image a signature must name to be one for the image that is pulled. Source: containers-policy.json(5), "signedIdentity". */
export type IdentityMatch =
  | { readonly type: 'matchExact' | 'matchRepoDigestOrExact' | 'matchRepository' }
  | { readonly type: 'exactReference'; readonly reference: string }
  | { readonly type: 'exactRepository'; readonly repository: string }
  | { readonly type: 'remapIdentity'; readonly prefix: string; readonly signedPrefix: string };

/** A name as it stands in a signature: unlike an image's it may have neither tag nor digest, and then gets none. */
interface Name {
  readonly repository: string;
  /** With tag or digest; `undefined` without. */
  readonly whole: string | undefined;
}

type Refuse = (where: string, why: string) => CriError;

export function parseIdentityMatch(entry: Record<string, unknown> | undefined, absent: boolean, where: string, refuse: Refuse): IdentityMatch {
  if (absent) return { type: 'matchRepoDigestOrExact' };
  if (entry === undefined) throw refuse(where, 'is not an object');
  const read = (key: string): string => {
    const value = entry[key];
    if (typeof value !== 'string' || value === '') throw refuse(`${where}.${key}`, 'is not a string');
    return value;
  };
  const name = (key: string): Name => {
    const found = parseName(read(key));
    if (found === undefined) throw refuse(`${where}.${key}`, `${quote(entry[key])} is no image name`);
    return found;
  };
  switch (entry.type) {
    case 'matchExact':
    case 'matchRepoDigestOrExact':
    case 'matchRepository':
      return { type: entry.type };
    case 'exactReference': {
      const { whole } = name('dockerReference');
      if (whole === undefined) throw refuse(`${where}.dockerReference`, `${quote(entry.dockerReference)} has neither tag nor digest`);
      return { type: 'exactReference', reference: whole };
    }
    case 'exactRepository':
      return { type: 'exactRepository', repository: name('dockerRepository').repository };
    case 'remapIdentity':
      return { type: 'remapIdentity', prefix: read('prefix'), signedPrefix: read('signedPrefix') };
    default:
      throw refuse(where, `has the unknown type ${quote(entry.type ?? null)}`);
  }
}

/** Whether a signature that names `signed` is for the image that is pulled as `reference`. */
export function matchesIdentity(signed: string, reference: ImageReference, match: IdentityMatch): boolean {
  const found = parseName(signed);
  if (found === undefined) return false;
  switch (match.type) {
    case 'exactReference':
      return found.whole === match.reference;
    case 'exactRepository':
      return found.repository === match.repository;
    case 'matchRepository':
      return found.repository === repositoryName(reference);
    case 'matchExact':
      return found.whole !== undefined && found.whole === wholeName(reference, repositoryName(reference));
    case 'matchRepoDigestOrExact':
      return matchesOwn(found, reference, repositoryName(reference));
    case 'remapIdentity':
      return matchesOwn(found, reference, remap(repositoryName(reference), match));
  }
}

/** A pull by digest is bound by that; a pull by tag wants the tag signed as well. */
function matchesOwn(found: Name, reference: ImageReference, repository: string): boolean {
  if (reference.digest !== undefined) return found.repository === repository;
  return found.whole !== undefined && found.whole === wholeName(reference, repository);
}

function wholeName({ tag, digest }: ImageReference, repository: string): string {
  return digest === undefined ? `${repository}:${tag}` : `${repository}@${digest}`;
}

function remap(repository: string, { prefix, signedPrefix }: { prefix: string; signedPrefix: string }): string {
  const covers = repository === prefix || repository.startsWith(`${prefix}/`);
  return covers ? signedPrefix + repository.slice(prefix.length) : repository;
}

function parseName(text: string): Name | undefined {
  try {
    const reference = parseReference(text);
    const repository = repositoryName(reference);
    return { repository, whole: /:[^/]*$|@/.test(text) ? wholeName(reference, repository) : undefined };
  } catch {
    return undefined; // what is no name matches none
  }
}
