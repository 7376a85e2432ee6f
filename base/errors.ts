/**
 * The failures a CRI caller can act on; every other throw is a bug or an outage.
 * `server/grpc-error.ts` maps them to gRPC codes; nothing else knows those codes.
 */
export type ErrorKind =
  | 'notFound'
  | 'alreadyExists'
  | 'invalidArgument'
  | 'failedPrecondition'
  | 'deadlineExceeded'
  | 'cancelled'
  | 'unavailable'
  | 'unimplemented'
  | 'resourceExhausted'
  /** gRPC UNKNOWN: where the kubelet recognises a failure by its message alone (`RegistryUnavailable…`). */
  | 'unknown';

/** An error whose message is meant for the caller: what failed, on which object, in lower case, no full stop. */
export class CriError extends Error {
  override readonly name = 'CriError';
  readonly kind: ErrorKind;

  constructor(kind: ErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

/** A refused request field. `field` is its proto path, such as `config.metadata.name`. */
export function invalidField(field: string, value: unknown, why: string): CriError {
  return new CriError('invalidArgument', `${field}: ${quote(value)} ${why}`);
}

/** JSON of the value, cut to 100 characters: a bad value may be 10,000 characters long. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value, (_key, v) => (typeof v === 'bigint' ? String(v) : v)) ?? String(value);
  return text.length <= 100 ? text : `${text.slice(0, 97)}…`;
}

/** True when `err` is a system error with one of these codes (`ENOENT`, …). */
export function isErrno(err: unknown, ...codes: string[]): err is NodeJS.ErrnoException {
  return err instanceof Error && 'code' in err && typeof err.code === 'string' && codes.includes(err.code);
}

/**
 * The failure that came first. A `SuppressedError` (from `await using`) holds the original failure in
 * `suppressed` and the one of the clean-up in `error`.
 */
export function firstFailure(thrown: unknown): unknown {
  let root = thrown;
  while (root instanceof SuppressedError) root = root.suppressed;
  return root;
}

/** One line for a person: the message and those of the causes, each once, joined by `: `. */
export function describeError(thrown: unknown): string {
  const parts: string[] = [];
  let err: unknown = firstFailure(thrown);
  for (let depth = 0; err !== undefined && err !== null && depth < 8; depth += 1) {
    const text = err instanceof Error ? err.message : String(err);
    if (text !== '' && !parts.some((part) => part.includes(text))) parts.push(text);
    err = err instanceof Error ? firstFailure(err.cause) : undefined;
  }
  return parts.join(': ');
}
