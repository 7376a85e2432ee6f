import { extname, join } from 'node:path';
import { forkChild } from '#base/exec.ts';
import { Semaphore } from '#base/lock.ts';
import { type FromChild, JobError } from './jobs.ts';

export interface ChildPoolOptions {
  /** The program beside this file: `fetch-child`. */
  readonly entry: string;
  /** How many processes at most. */
  readonly processes: number;
  /** How many jobs each does at once. */
  readonly jobsEach: number;
  /** How a cancelled job ends: `message` lets the child stop it, `kill` ends the child, for those that cannot listen. */
  readonly cancelBy: 'message' | 'kill';
  /** A child without a job for so long is ended. */
  readonly idleMs: number;
  readonly env?: Readonly<Record<string, string>>;
}

interface Job {
  readonly resolve: (result: unknown) => void;
  readonly reject: (err: unknown) => void;
  readonly onReport: ((report: unknown) => void) | undefined;
}

/** Jobs in child processes that are started when needed and end when idle, or with the daemon. */
export class ChildPool implements AsyncDisposable {
  readonly #options: ChildPoolOptions;
  readonly #places: Semaphore;
  readonly #children = new Set<Child>();

  constructor(options: ChildPoolOptions) {
    this.#options = options;
    this.#places = new Semaphore(options.processes * options.jobsEach);
  }

  /**
   * Runs one job, waiting for a free place first. When `signal` fires it rejects with the signal's reason, and only
   * once the child no longer works on it. `onReport` is given what the job tells on its way.
   * @throws {JobError} with the child's own reason.
   */
  run<Result>(job: object, signal: AbortSignal, onReport?: (report: unknown) => void): Promise<Result> {
    return this.#places.run(async () => (await this.#child().run(job, signal, { cancelBy: this.#options.cancelBy, onReport })) as Result, signal);
  }

  /** Sees to it that so many children live, for jobs that will come in a moment: a start takes a tenth of a second. */
  warm(count: number): void {
    for (let have = this.#children.size; have < Math.min(count, this.#options.processes); have += 1) this.#start();
  }

  /** The process ids of the children that live. */
  pids(): number[] {
    return [...this.#children].flatMap((child) => child.pid ?? []);
  }

  #child(): Child {
    for (const child of this.#children) if (child.jobs < this.#options.jobsEach) return child;
    return this.#start();
  }

  #start(): Child {
    const { entry, env, idleMs } = this.#options;
    const child = new Child(entryPath(entry), env ?? {}, idleMs, () => this.#children.delete(child));
    this.#children.add(child);
    return child;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#children].map((child) => child.end()));
  }
}

/** In development the program is a `.ts` file in this folder; bundled, a `.js` file beside the daemon's bundle. */
function entryPath(name: string): string {
  return join(import.meta.dirname, `${name}${extname(import.meta.filename)}`);
}

class Child {
  readonly #process: ReturnType<typeof forkChild>;
  readonly #jobs = new Map<number, Job>();
  readonly #idleMs: number;
  readonly #gone = Promise.withResolvers<void>();
  readonly #onGone: () => void;
  #idle: NodeJS.Timeout | undefined;
  #serial = 0;
  #said = '';

  constructor(entry: string, env: Readonly<Record<string, string>>, idleMs: number, onGone: () => void) {
    this.#idleMs = idleMs;
    this.#onGone = onGone;
    this.#process = forkChild(entry, env);
    this.#endWhenIdle();
    this.#process.on('message', (message: FromChild) => this.#answer(message));
    this.#process.on('error', (err) => this.#end(`could not be used: ${err.message}`));
    this.#process.on('exit', (code, signal) => this.#end(signal === null ? `ended with exit code ${code}` : `was killed by ${signal}`));
    this.#process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#said = (this.#said + text).slice(-2_000);
    });
  }

  get jobs(): number {
    return this.#jobs.size;
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  async run(
    job: object,
    signal: AbortSignal,
    { cancelBy, onReport }: Pick<ChildPoolOptions, 'cancelBy'> & { readonly onReport: Job['onReport'] },
  ): Promise<unknown> {
    signal.throwIfAborted();
    clearTimeout(this.#idle);
    this.#serial += 1;
    const id = this.#serial;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#jobs.set(id, { resolve, reject, onReport });
    const onAbort = (): void => {
      if (cancelBy === 'kill') this.#process.kill('SIGKILL');
      else if (this.#process.connected) this.#process.send({ cancel: id });
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      this.#process.send({ id, job }, (err) => {
        if (err !== null) reject(new JobError('other', `child process took no job: ${err.message}`));
      });
      return await promise;
    } catch (err) {
      signal.throwIfAborted();
      throw err;
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#jobs.delete(id);
      if (this.#jobs.size === 0) this.#endWhenIdle();
    }
  }

  #endWhenIdle(): void {
    this.#idle = setTimeout(() => void this.end(), this.#idleMs).unref();
  }

  /** Ends the process; jobs in it fail. */
  async end(): Promise<void> {
    clearTimeout(this.#idle);
    this.#onGone(); // takes no new job from here on
    if (this.#process.connected) this.#process.disconnect();
    // A child in a synchronous call hears the disconnect late.
    const kill = setTimeout(() => this.#process.kill('SIGKILL'), this.#jobs.size === 0 ? 1_000 : 0);
    await this.#gone.promise;
    clearTimeout(kill);
  }

  #answer(message: FromChild): void {
    const job = this.#jobs.get(message.id);
    if ('report' in message) job?.onReport?.(message.report);
    else if (message.ok) job?.resolve(message.result);
    else job?.reject(new JobError(message.kind, message.message));
  }

  #end(how: string): void {
    clearTimeout(this.#idle);
    this.#onGone();
    const said = this.#said.trim();
    const err = new JobError('other', `child process ${this.#process.pid ?? ''} ${how}${said === '' ? '' : `: ${said}`}`);
    for (const job of this.#jobs.values()) job.reject(err);
    this.#gone.resolve();
  }
}
