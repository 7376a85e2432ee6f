import { CriError, describeError, type ErrorKind, firstFailure } from '#base/errors.ts';

/** How a session ended. An attach has no exit code of its own. */
export type Ending = { readonly exitCode: number | undefined } | { readonly err: unknown };

/** HTTP code and reason as the API server has them. Source: k8s.io/apimachinery, meta/v1 StatusReason. */
const reasons: Readonly<Partial<Record<ErrorKind, { readonly reason: string; readonly code: number }>>> = {
  notFound: { reason: 'NotFound', code: 404 },
  invalidArgument: { reason: 'BadRequest', code: 400 },
  failedPrecondition: { reason: 'Conflict', code: 409 },
  resourceExhausted: { reason: 'TooManyRequests', code: 429 },
  unavailable: { reason: 'ServiceUnavailable', code: 503 },
  deadlineExceeded: { reason: 'Timeout', code: 504 },
};

/** The text that old protocols (before v4) have for an end; empty for success. */
export function endingText(ending: Ending): string {
  if ('err' in ending) return describeError(ending.err);
  return ending.exitCode === undefined || ending.exitCode === 0 ? '' : `command terminated with exit code ${ending.exitCode}`;
}

/** The `Status` (JSON) that protocols since v4 have for it: the only way an exit code travels. */
export function endingStatus(ending: Ending): string {
  const message = endingText(ending);
  if (message === '' && !('err' in ending)) return JSON.stringify({ metadata: {}, status: 'Success' });
  if (!('err' in ending)) {
    const causes = [{ reason: 'ExitCode', message: String(ending.exitCode) }];
    return JSON.stringify({ metadata: {}, status: 'Failure', message, reason: 'NonZeroExitCode', details: { causes } });
  }
  const err = firstFailure(ending.err);
  const { reason, code } = (err instanceof CriError ? reasons[err.kind] : undefined) ?? { reason: 'InternalError', code: 500 };
  return JSON.stringify({ metadata: {}, status: 'Failure', message, reason, code });
}
