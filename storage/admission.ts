import { CriError } from '#base/errors.ts';
import type { Digest } from './digest.ts';
import { matchesIdentity } from './identity.ts';
import { JobError, type ManifestResult } from './jobs.ts';
import type { Descriptor } from './manifest.ts';
import { type Policy, type Requirement, signatureFailure } from './policy.ts';
import { formatReference, type ImageReference } from './reference.ts';
import { type AttachedSignature, isSignedBy, loadKey, parseClaim, parseSignatures, type SignedClaim, signatureTag } from './signature.ts';

export interface Verification {
  readonly reference: ImageReference;
  readonly policy: Policy;
  /** Of the manifest that is installed and of the index that led to it, if there was one: a signature binds either. */
  readonly digests: readonly Digest[];
  /** From where the image comes. Rejects with a JobError of kind `notFound` where there is no such tag. */
  fetchManifest(tag: string): Promise<Pick<ManifestResult, 'text'>>;
  fetchText(blob: Descriptor): Promise<string>;
}

/**
 * Refuses an image that no signature could help, before anything of it is fetched.
 * @throws {CriError} as `verifyImage` does.
 */
export function refuseOutright(reference: ImageReference, policy: Policy): void {
  for (const requirement of policy.ruleFor(reference).requirements) {
    const why = outrightComplaint(requirement);
    if (why !== undefined) throw failure(reference, policy, why);
  }
}

/**
 * Holds an image to the signature policy. What passes is bound by digest: it is what is installed, and nothing else.
 * @throws {CriError} `unknown` with `SignatureValidationFailed: ` in front, which the kubelet knows.
 */
export async function verifyImage(image: Verification): Promise<void> {
  for (const requirement of image.policy.ruleFor(image.reference).requirements) {
    const why = requirement.type === 'sigstoreSigned' ? await signedComplaint(image, requirement) : outrightComplaint(requirement);
    if (why !== undefined) throw failure(image.reference, image.policy, why);
  }
}

function failure(reference: ImageReference, policy: Policy, why: string): CriError {
  const { scope } = policy.ruleFor(reference);
  return signatureFailure(
    `image ${formatReference(reference)} ${why} (policy ${policy.path}, ${scope === 'default' ? scope : `scope ${JSON.stringify(scope)}`})`,
  );
}

/** Why the requirement can be met by no signature; `undefined` when it may be. */
function outrightComplaint(requirement: Requirement): string | undefined {
  if (requirement.type === 'reject') return 'is rejected';
  return requirement.type === 'unsupported' ? `would have to be ${requirement.what}, which Berth does not check` : undefined;
}

/** Why there is no signature that counts; `undefined` when there is one. */
async function signedComplaint(image: Verification, { keys, identity }: Extract<Requirement, { type: 'sigstoreSigned' }>): Promise<string | undefined> {
  const loaded = await Promise.all(keys.map(loadKey));
  const reasons = new Set<string>();
  for (const digest of image.digests) {
    for (const { payload, signature } of await signaturesOf(image, digest)) {
      const text = await image.fetchText(payload);
      const claim = loaded.some((key) => isSignedBy(key, text, signature)) ? parseClaim(text) : 'other key';
      const why = claimComplaint(claim, digest);
      if (why !== undefined) reasons.add(why);
      else if (matchesIdentity((claim as SignedClaim).reference, image.reference, identity)) return undefined;
      else reasons.add(`signed as ${JSON.stringify((claim as SignedClaim).reference)}, which is no match by ${identity.type}`);
    }
  }
  return reasons.size === 0 ? 'has no signature' : `has no signature that counts: ${[...reasons].join('; ')}`;
}

function claimComplaint(claim: SignedClaim | 'other key' | undefined, digest: Digest): string | undefined {
  if (claim === 'other key') return 'not signed by a key of the policy';
  if (claim === undefined) return 'the key has signed something that is no image';
  return claim.digest === digest ? undefined : `signed for the other image ${claim.digest}`;
}

async function signaturesOf(image: Verification, digest: Digest): Promise<AttachedSignature[]> {
  let manifest: Pick<ManifestResult, 'text'>;
  try {
    manifest = await image.fetchManifest(signatureTag(digest));
  } catch (err) {
    if (err instanceof JobError && err.kind === 'notFound') return [];
    throw err;
  }
  try {
    return parseSignatures(manifest.text, formatReference(image.reference));
  } catch (err) {
    if (err instanceof CriError && err.kind === 'invalidArgument') throw signatureFailure(err.message, err);
    throw err;
  }
}
