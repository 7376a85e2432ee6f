import { createHash } from 'node:crypto';
import { CriError, quote } from '#base/errors.ts';

/** `sha256:<64 lower-case hex digits>`: the only algorithm that registries use in practice, and the only one accepted. */
export type Digest = string & { readonly __brand: 'Digest' };

/** The digest of an image's config blob, which names the image for the CRI. */
export type ImageId = Digest & { readonly __image: true };

/** Names a layer together with everything below it. Source: OCI image spec, config.md, "Layer ChainID". */
export type ChainId = Digest & { readonly __chain: true };

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** True for a whole, well-formed sha256 digest. */
export function isDigest(text: unknown): text is Digest {
  return typeof text === 'string' && DIGEST.test(text);
}

/**
 * The digest that `text` spells.
 * @throws {CriError} `invalidArgument` naming `what` it is the digest of.
 */
export function parseDigest(text: unknown, what: string): Digest {
  if (isDigest(text)) return text;
  throw new CriError('invalidArgument', `digest of ${what} ${quote(text)} is not sha256:<64 hex digits>`);
}

/** The 64 hex digits: what files and directories are called. */
export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

export function digestOf(data: string | Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(data).digest('hex')}` as Digest;
}

/** The ChainIDs of a stack of layers, lowest first. */
export function chainIds(diffIds: readonly Digest[]): ChainId[] {
  const chain: ChainId[] = [];
  for (const diffId of diffIds) {
    const parent = chain.at(-1);
    chain.push((parent === undefined ? diffId : digestOf(`${parent} ${diffId}`)) as ChainId);
  }
  return chain;
}
