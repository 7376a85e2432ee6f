import { status } from '@grpc/grpc-js';
import { CriError, describeError, type ErrorKind, firstFailure, isErrno } from '#base/errors.ts';

/** What a failed call is answered with. `details` is what the kubelet puts into the pod's event. */
export interface GrpcError {
  readonly code: status;
  readonly details: string;
}

/** Headers share one block with a limit; an event shows no more than 1 KiB anyway. */
const maxDetailsBytes = 4096;

const codeOf = {
  notFound: status.NOT_FOUND,
  alreadyExists: status.ALREADY_EXISTS,
  invalidArgument: status.INVALID_ARGUMENT,
  failedPrecondition: status.FAILED_PRECONDITION,
  deadlineExceeded: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  unavailable: status.UNAVAILABLE,
  unimplemented: status.UNIMPLEMENTED,
  resourceExhausted: status.RESOURCE_EXHAUSTED,
  unknown: status.UNKNOWN,
} as const satisfies Record<ErrorKind, status>;

/**
 * The gRPC answer for anything thrown. The code comes from a closed list: grpc-js sends any integer it finds in
 * `err.code`, so an AbortError that slipped through would reach the client as code 20.
 */
export function toGrpc(thrown: unknown): GrpcError {
  return { code: codeFor(firstFailure(thrown)), details: cut(withoutSecrets(describeError(thrown))) };
}

function codeFor(err: unknown): status {
  if (err instanceof CriError) return codeOf[err.kind];
  // The node has run out of something: disk, descriptors, memory. The message names the path.
  if (isErrno(err, 'ENOSPC', 'EDQUOT', 'EMFILE', 'ENFILE', 'ENOMEM')) return status.RESOURCE_EXHAUSTED;
  if (err instanceof Error && err.name === 'AbortError') return status.CANCELLED;
  if (err instanceof Error && err.name === 'TimeoutError') return status.DEADLINE_EXCEEDED;
  return status.UNKNOWN;
}

/** Storage behind registries signs URLs in their query; events are readable by everyone who may see the pod. */
function withoutSecrets(text: string): string {
  return text.replaceAll(/\b(https?:\/\/)(?:[^\s/?#@"']*@)?([^\s?"']*)\?[^\s"']*/g, '$1$2?…').replaceAll(/\b(https?:\/\/)[^\s/?#@"']*@/g, '$1');
}

/** Well-formed too: grpc-js passes details to `encodeURI`, which throws at a lone surrogate. */
function cut(text: string): string {
  const whole = text.toWellFormed();
  if (Buffer.byteLength(whole) <= maxDetailsBytes) return whole;
  const bytes = Buffer.from(whole);
  let end = maxDetailsBytes - Buffer.byteLength('…');
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1; // not in the middle of a character
  return `${bytes.toString('utf8', 0, end)}…`;
}
