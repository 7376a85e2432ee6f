import { describeError, isErrno } from '#base/errors.ts';
import { type FailureKind, type FromChild, JobError, type ToChild } from './jobs.ts';

/**
 * The child's side of `ChildPool`: answers each job with `handle`'s result or failure; ends with the daemon. What a job
 * reports on its way arrives before its answer.
 */
export function serveJobs(handle: (job: never, signal: AbortSignal, report: (progress: object) => void) => Promise<unknown>): void {
  const running = new Map<number, AbortController>();
  const reply = (message: FromChild): void => {
    if (process.connected) process.send?.(message);
  };
  const start = async (id: number, job: unknown): Promise<void> => {
    const controller = new AbortController();
    running.set(id, controller);
    try {
      reply({ id, ok: true, result: (await handle(job as never, controller.signal, (report) => reply({ id, report }))) ?? null });
    } catch (err) {
      reply({ id, ok: false, kind: failureKind(err), message: describeError(err) });
    } finally {
      running.delete(id);
    }
  };
  process.on('message', (message: ToChild) => {
    if ('cancel' in message) running.get(message.cancel)?.abort();
    else void start(message.id, message.job);
  });
  process.on('disconnect', () => process.exit(0));
}

function failureKind(err: unknown): FailureKind {
  if (err instanceof JobError) return err.kind;
  if (isErrno(err, 'ENOSPC', 'EDQUOT')) return 'noSpace';
  if (err instanceof Error && err.name === 'AbortError') return 'cancelled';
  return 'other';
}
