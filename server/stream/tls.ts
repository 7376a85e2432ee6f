import { readFile, stat } from 'node:fs/promises';
import type { Server } from 'node:https';
import type { SecureContextOptions } from 'node:tls';
import { CriError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';

export interface TlsOptions {
  /** PEM files. */
  readonly certFile: string;
  readonly keyFile: string;
  /** Who signs the clients' certificates; empty asks for none. */
  readonly caFile: string;
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
}

const LOOK_MS = 5_000;

/** The files of TLS: what a server begins with, and what it is given whenever they have changed. */
export class TlsFiles {
  readonly #options: TlsOptions;
  readonly #log: Log;
  #context: SecureContextOptions = {};
  #seen = '';

  private constructor(options: TlsOptions, log: Log) {
    this.#options = options;
    this.#log = log;
  }

  /** @throws {CriError} `failedPrecondition` when a file cannot be read. */
  static async open(options: TlsOptions, log: Log): Promise<TlsFiles> {
    const files = new TlsFiles(options, log);
    files.#seen = await marks(options);
    files.#context = await readAll(options);
    return files;
  }

  get context(): SecureContextOptions {
    return this.#context;
  }

  /** Looks every `lookMs` until disposed of. Sessions go on; files that do not fit together, as halfway through a renewal, wait for the next change. */
  follow(server: Server, lookMs = LOOK_MS): Disposable {
    let looking = Promise.resolve();
    const timer = setInterval(() => {
      looking = looking.then(() => this.#look(server));
    }, lookMs);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }

  async #look(server: Server): Promise<void> {
    const now = await marks(this.#options);
    if (now === this.#seen) return;
    this.#seen = now;
    const path = this.#options.certFile;
    try {
      server.setSecureContext(await readAll(this.#options));
      this.#log.info({ path }, 'Reloaded TLS certificate');
    } catch (err) {
      this.#log.warn({ err, path }, 'Could not reload TLS certificate');
    }
  }
}

async function readAll({ certFile, keyFile, caFile, minVersion }: TlsOptions): Promise<SecureContextOptions> {
  const [cert, key, ca] = await Promise.all([certFile, keyFile, caFile].map((path) => (path === '' ? undefined : read(path))));
  return { cert, key, minVersion, ...(ca !== undefined && { ca }) };
}

async function read(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new CriError('failedPrecondition', `streaming: ${path} cannot be read`, { cause });
  }
}

/** Changes with any of the files. */
async function marks({ certFile, keyFile, caFile }: TlsOptions): Promise<string> {
  const parts = [certFile, keyFile, caFile].map(async (path) => {
    if (path === '') return '';
    const found = await stat(path, { bigint: true }).catch(() => undefined);
    return found === undefined ? 'gone' : `${found.dev}:${found.ino}:${found.size}:${found.mtimeNs}`;
  });
  return (await Promise.all(parts)).join(' ');
}
