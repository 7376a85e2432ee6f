import { closeSync, ftruncateSync, openSync, unlinkSync, writeSync } from 'node:fs';
import { serveJobs } from './child-serve.ts';
import { type BlobJob, type FetchJob, JobError, type ManifestJob, type ManifestResult, type Target } from './jobs.ts';
import { RegistryClient } from './registry.ts';

/** The process that speaks to registries: the daemon itself holds no connection and hashes no byte. */

const client = new RegistryClient({ env: process.env, certificates: JSON.parse(process.env.BERTH_CERTIFICATES ?? '[]') as string[] });

async function fetchManifest({ targets, reference, sizeBytes, idleMs }: ManifestJob, signal: AbortSignal): Promise<ManifestResult> {
  return inTurn(
    targets,
    async (target, index) => ({
      ...(await client.manifest(target, sizeBytes === undefined ? { reference } : { reference, sizeBytes }, { idleMs, signal })),
      target: index,
    }),
    signal,
  );
}

async function fetchBlob({ targets, digest, sizeBytes, path, idleMs }: BlobJob, signal: AbortSignal): Promise<void> {
  const fd = openSync(path, 'wx', 0o600);
  let at = 0;
  const sink = {
    write: (chunk: Buffer): void => {
      for (let done = 0; done < chunk.length; ) done += writeSync(fd, chunk, done, chunk.length - done, at + done);
      at += chunk.length;
    },
    restart: (): void => {
      ftruncateSync(fd, 0);
      at = 0;
    },
  };
  try {
    await inTurn(
      targets,
      (target) => {
        sink.restart();
        return client.blob(target, { digest, sizeBytes }, sink, { idleMs, signal });
      },
      signal,
    );
  } catch (err) {
    unlinkSync(path);
    throw err;
  } finally {
    closeSync(fd);
  }
}

/** Each target in its turn, until one has it. All reasons are in the error; its kind is that of the last, the registry itself. */
async function inTurn<T>(targets: readonly Target[], work: (target: Target, index: number) => Promise<T>, signal: AbortSignal): Promise<T> {
  const reasons: string[] = [];
  for (const [index, target] of targets.entries()) {
    try {
      return await work(target, index);
    } catch (err) {
      signal.throwIfAborted();
      if (!(err instanceof JobError)) throw err;
      reasons.push(`${target.mirror ? 'mirror ' : ''}${err.message}`);
      if (index === targets.length - 1) throw new JobError(err.kind, reasons.join('; '));
    }
  }
  throw new JobError('other', 'there is no place to fetch from');
}

serveJobs((job: FetchJob, signal) => (job.op === 'manifest' ? fetchManifest(job, signal) : fetchBlob(job, signal)));
