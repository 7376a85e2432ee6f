import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { JobError } from './jobs.ts';

const RETRIES = 3;
const FIRST_DELAY_MS = 500;
/** A registry that wants a longer pause is left to the kubelet's back-off. */
const LONGEST_DELAY_MS = 30_000;

/** A failure that may be gone in a moment. `afterMs` is what the server asked for. */
export class PassingError extends JobError {
  readonly afterMs: number | undefined;

  constructor(message: string, afterMs?: number, options?: ErrorOptions) {
    super('unreachable', message, options);
    this.afterMs = afterMs;
  }
}

export interface RetryOptions {
  readonly signal: AbortSignal;
  /** Says that an attempt got somewhere: the count starts anew. */
  readonly hasMoved?: () => boolean;
  /** Told before each further attempt. */
  readonly onRetry?: (() => void) | undefined;
}

/** Runs `work` again, up to three times with growing delays, while it fails with what may pass. */
export async function withRetries<T>(work: () => Promise<T>, { signal, hasMoved = () => false, onRetry }: RetryOptions): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work();
    } catch (err) {
      signal.throwIfAborted();
      if (hasMoved()) attempt = 0;
      const passing = err instanceof PassingError || (err instanceof JobError && isErrno(err.cause, 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'EAI_AGAIN'));
      const asked = err instanceof PassingError ? err.afterMs : undefined;
      if (!passing || attempt >= RETRIES || (asked ?? 0) > LONGEST_DELAY_MS) throw err;
      onRetry?.();
      await sleep(asked ?? FIRST_DELAY_MS * 2 ** attempt * (0.75 + Math.random() / 2), signal);
    }
  }
}

/** Milliseconds of a Retry-After header: seconds or a date. Source: RFC 9110, 10.2.3. */
export function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined;
  if (/^\d+$/.test(header)) return Number(header) * 1_000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
