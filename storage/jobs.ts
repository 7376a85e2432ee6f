import type { Credentials } from './auth.ts';
import type { Digest } from './digest.ts';
import type { ListSeal } from './entry-list.ts';
import type { Endpoint } from './registries-conf.ts';

/** What the daemon asks its children to do, and what they answer. Everything travels as JSON. */

/** An endpoint with what to show it. */
export interface Target extends Endpoint {
  readonly credentials: Credentials;
}

export interface ManifestJob {
  readonly op: 'manifest';
  readonly targets: readonly Target[];
  /** A tag or a digest. */
  readonly reference: string;
  /** What it must have, where that is known. */
  readonly sizeBytes?: number;
  readonly idleMs: number;
}

export interface ManifestResult {
  readonly text: string;
  readonly contentType: string;
  readonly digest: Digest;
  /** Index of the target that had it. */
  readonly target: number;
}

export interface BlobJob {
  readonly op: 'blob';
  readonly targets: readonly Target[];
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** What is there is taken for the beginning of the blob. Whole and verified when the job is done; kept when it failed. */
  readonly path: string;
  readonly idleMs: number;
}

/** How far a blob has come: told several times a second while that changes. */
export interface BlobReport {
  /** In the file, with what an earlier try had left. */
  readonly receivedBytes: number;
  /** What came over the network in this job. */
  readonly fetchedBytes: number;
  /** `host[:port]` that is asked, or was asked last. */
  readonly source: string;
  /** Requests that were sent again, to the same place or to the next. */
  readonly retries: number;
}

export interface UnpackJob {
  readonly op: 'unpack';
  /** A tar, as it is or compressed with gzip or zstd: told by its first bytes. */
  readonly blob: string;
  /** Checked over the whole blob before anything is inflated. */
  readonly blobDigest: Digest | undefined;
  /** Of the uncompressed tar, checked at its end. */
  readonly diffId: Digest | undefined;
  /** Existing directory to unpack into. */
  readonly dir: string;
  /**
   * `layer` unpacks a layer by itself and fails with `needsLower` where it cannot; `merged` unpacks over a mount of the
   * layers below, which can always; `plain` gives whiteouts no meaning.
   */
  readonly mode: UnpackMode;
  /** For `merged`: the layers below, uppermost first, and an existing work directory and mount point. */
  readonly merge: { readonly lower: readonly string[]; readonly work: string; readonly mountpoint: string } | undefined;
  /** Where to write the list of what was made; must not exist. `undefined` for none. */
  readonly list: string | undefined;
  readonly limits: UnpackLimits;
}

/** What a layer may come to before it is taken for a bomb. */
export interface UnpackLimits {
  /** Content as written, each file rounded up to 4 KiB. */
  readonly maxBytes: number;
  readonly maxInodes: number;
}

export type UnpackMode = 'layer' | 'merged' | 'plain';

export interface UnpackResult {
  /** Content on disk, each file rounded up to 4 KiB. */
  readonly bytes: number;
  readonly inodes: number;
  readonly diffId: Digest;
  /** Directories that the layer has entries in but none for, as latin1: their attributes are those of the layers below. */
  readonly implied: readonly string[];
  readonly seal: ListSeal | undefined;
}

/** Gives implied directories the attributes that they have in the layers below. Fails with `needsLower` where those have no directory. */
export interface SettleJob {
  readonly op: 'settle';
  readonly dir: string;
  readonly implied: readonly string[];
  /** Uppermost first. */
  readonly lower: readonly string[];
}

/** Compares a layer with its list; with `full` the content too. */
export interface VerifyJob {
  readonly op: 'verify';
  readonly dir: string;
  readonly list: string;
  readonly seal: ListSeal;
  readonly full: boolean;
}

export interface VerifyResult {
  /** The first thing that is wrong; `undefined` for a layer that is as it was unpacked. */
  readonly problem: { readonly kind: 'missing' | 'altered' | 'damaged'; readonly message: string } | undefined;
  /** How many things are wrong. */
  readonly count: number;
}

export type FetchJob = ManifestJob | BlobJob;
export type UnpackChildJob = UnpackJob | SettleJob | VerifyJob;

export type FailureKind =
  /** No answer, or 5xx or 429 after the retries. */
  | 'unreachable'
  | 'notFound'
  | 'unauthorised'
  /** What came is not what was asked for: digest, size, format. */
  | 'corrupt'
  /** Understood, and not done here. */
  | 'refused'
  /** Not let in by the signature policy. */
  | 'policy'
  | 'noSpace'
  | 'needsLower'
  | 'cancelled'
  | 'other';

/** A failed job, as it crosses the process boundary. The message is meant for people and has no credential in it. */
export class JobError extends Error {
  override readonly name = 'JobError';
  readonly kind: FailureKind;

  constructor(kind: FailureKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

export type ToChild = { readonly id: number; readonly job: unknown } | { readonly cancel: number };
export type FromChild =
  | { readonly id: number; readonly report: unknown }
  | { readonly id: number; readonly ok: true; readonly result: unknown }
  | { readonly id: number; readonly ok: false; readonly kind: FailureKind; readonly message: string };
