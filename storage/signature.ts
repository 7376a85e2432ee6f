import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { describeError } from '#base/errors.ts';
import { type Digest, hexOf, isDigest } from './digest.ts';
import { type Descriptor, parseDescriptor } from './manifest.ts';
import { type KeySource, signatureFailure } from './policy.ts';

/** A signature that lies beside its image, not yet checked. Source: cosign, specs/SIGNATURE_SPEC.md. */
export interface AttachedSignature {
  /** The blob with what was signed. */
  readonly payload: Descriptor;
  /** base64, by the payload's bytes. */
  readonly signature: string;
}

/** What a signature says. */
export interface SignedClaim {
  readonly digest: Digest;
  /** The image's name as the signer had it. */
  readonly reference: string;
}

const LAYER_TYPE = 'application/vnd.dev.cosign.simplesigning.v1+json';
const SIGNATURE_KEY = 'dev.cosignproject.cosign/signature';
const CLAIM_TYPE = 'cosign container image signature';
/** A payload is some 300 bytes; an image has one for each who signed it. */
export const MAX_PAYLOAD_BYTES = 64 * 1024;
const MAX_SIGNATURES = 64;

/** The tag that holds an image's signatures. */
export function signatureTag(digest: Digest): string {
  return `sha256-${hexOf(digest)}.sig`;
}

/** The signatures that a manifest under such a tag lists. What is none is left out. @throws {CriError} when it is no such manifest. */
export function parseSignatures(text: string, name: string): AttachedSignature[] {
  const layers = field(parseJson(text), 'layers');
  if (!Array.isArray(layers)) throw signatureFailure(`image ${name}: its signatures are in no manifest`);
  const signatures = layers.flatMap((layer: unknown) => {
    const signature = field(field(layer, 'annotations'), SIGNATURE_KEY);
    if (field(layer, 'mediaType') !== LAYER_TYPE || typeof signature !== 'string') return [];
    const payload = parseDescriptor(layer as Record<string, unknown>, `a signature of image ${name}`);
    return payload.sizeBytes > MAX_PAYLOAD_BYTES ? [] : [{ payload, signature }];
  });
  return signatures.slice(0, MAX_SIGNATURES);
}

/** What a payload claims; `undefined` when it is no claim about an image. Everything critical must be understood. */
export function parseClaim(text: string): SignedClaim | undefined {
  const critical = field(parseJson(text), 'critical');
  const image = field(critical, 'image');
  const identity = field(critical, 'identity');
  const digest = field(image, 'docker-manifest-digest');
  const reference = field(identity, 'docker-reference');
  if (field(critical, 'type') !== CLAIM_TYPE || !isDigest(digest) || typeof reference !== 'string') return undefined;
  return [critical, image, identity].map((part) => Object.keys(part as object).length).join() === '3,1,1' ? { digest, reference } : undefined;
}

/** @throws {CriError} naming the file, when it is not a public key of a kind that signs images. */
export async function loadKey(source: KeySource): Promise<KeyObject> {
  const name = 'path' in source ? source.path : 'in keyData';
  try {
    const pem = 'path' in source ? await readFile(source.path, 'utf8') : source.pem;
    // A private key would be taken as well, and does not belong on a node.
    if (!/-----BEGIN (?:RSA )?PUBLIC KEY-----/.test(pem)) throw new Error('is not a public key in PEM');
    const key = createPublicKey(pem);
    const { asymmetricKeyType: kind } = key;
    if (kind !== 'ec' && kind !== 'rsa' && kind !== 'ed25519') throw new Error(`is of the kind ${kind}, which is not supported`);
    return key;
  } catch (err) {
    throw signatureFailure(`public key ${name}: ${describeError(err)}`, err);
  }
}

/** ECDSA and RSA (PKCS #1 v1.5) over SHA-256, and Ed25519, as cosign signs. */
export function isSignedBy(key: KeyObject, payload: string, signature: string): boolean {
  try {
    return verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', Buffer.from(payload), key, Buffer.from(signature, 'base64'));
  } catch {
    return false; // not even the form of a signature
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}
