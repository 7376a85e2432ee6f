import { setPriority } from 'node:os';
import { serveJobs } from './child-serve.ts';
import { type BlobJob, type BlobReport, type FetchJob, JobError, type ManifestJob, type ManifestResult, type Target } from './jobs.ts';
import { PartialFile } from './partial.ts';
import { RegistryClient } from './registry.ts';

/** The process that speaks to registries: the daemon itself holds no connection and hashes no byte. */

// After the daemon, before the children that unpack: those wait for what comes from here.
setPriority(5);

/** How often a blob's progress is told while it changes. */
const REPORT_MS = 200;

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

async function fetchBlob(job: BlobJob, signal: AbortSignal, report: (progress: BlobReport) => void): Promise<void> {
  using file = await PartialFile.open(job.path, job.sizeBytes, signal);
  const leftBytes = file.bytes;
  using reporter = new Reporter(file, report);
  const fetch = (): Promise<void> =>
    inTurn(
      job.targets,
      (target, index) => {
        if (index > 0) reporter.retries += 1;
        reporter.from(target.host);
        return client.blob(target, job, file, { idleMs: job.idleMs, signal, onRetry: () => (reporter.retries += 1) }).catch((err: unknown) => {
          if (err instanceof JobError && err.kind === 'corrupt') file.restart();
          throw err;
        });
      },
      signal,
    );
  try {
    await fetch();
  } catch (err) {
    // What an earlier try has left may be what is wrong.
    if (leftBytes === 0 || !(err instanceof JobError) || !['corrupt', 'other', 'refused'].includes(err.kind)) throw err;
    file.restart();
    await fetch();
  }
}

/** Tells how far a blob has come. */
class Reporter implements Disposable {
  retries = 0;
  #source = '';
  readonly #file: PartialFile;
  readonly #report: (progress: BlobReport) => void;
  readonly #timer: NodeJS.Timeout;
  #told = '';

  constructor(file: PartialFile, report: (progress: BlobReport) => void) {
    this.#file = file;
    this.#report = report;
    this.#timer = setInterval(() => this.#tell(), REPORT_MS);
  }

  /** Where it is asked for next. */
  from(source: string): void {
    this.#source = source;
    this.#tell();
  }

  #tell(): void {
    const progress = { receivedBytes: this.#file.bytes, fetchedBytes: this.#file.written, source: this.#source, retries: this.retries };
    const text = JSON.stringify(progress);
    if (text === this.#told) return;
    this.#told = text;
    this.#report(progress);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#tell();
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

serveJobs((job: FetchJob, signal, report) => (job.op === 'manifest' ? fetchManifest(job, signal) : fetchBlob(job, signal, report)));
