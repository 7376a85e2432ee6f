import { createWriteStream } from 'node:fs';
import { chmod, mkdtempDisposable, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { isAbsolute, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { CriError, describeError, type ErrorKind, invalidField } from '#base/errors.ts';
import type { Log } from '#base/log.ts';

/** An image that was taken out of an archive. */
export interface LoadedImage {
  readonly id: string;
  readonly repoTags: readonly string[];
}

/** The answer to `POST /images/load`; `error` and no images when it failed. */
export type LoadAnswer = { readonly images: readonly LoadedImage[] } | { readonly error: string };

export interface AdminDeps {
  /** The unix socket. Made anew, for its owner alone: it reads any path it is given. */
  readonly path: string;
  /** Archives are received below it, and taken away again. */
  readonly stagingDir: string;
  /** Loads a docker or OCI archive, or an OCI layout when `path` is a directory. `name` is for an image that has none. */
  readonly load: (path: string, options: { readonly name: string | undefined; readonly signal: AbortSignal }) => Promise<readonly LoadedImage[]>;
  readonly log: Log;
}

/**
 * Serves what the CRI has no RPC for: `POST /images/load?name=REF`, with the archive as the body, or with
 * `&path=DIRECTORY` and no body. HTTP on a socket of its own, since the CRI's speaks gRPC only.
 */
export async function serveAdmin({ path, stagingDir, load, log }: AdminDeps): Promise<AsyncDisposable> {
  const closing = new AbortController();
  const running = new Set<Promise<void>>();
  const server = createServer((request, response) => {
    const gone = new AbortController();
    response.on('close', () => gone.abort(new CriError('cancelled', 'the client has gone')));
    const signal = AbortSignal.any([closing.signal, gone.signal]);
    const work = answer(request, response, (target) => loadImages(request, target, { stagingDir, load, signal }), log);
    running.add(work);
    void work.finally(() => running.delete(work));
  });
  server.requestTimeout = 0; // an archive comes as slowly as its source, perhaps a pipe
  await listen(server, path);
  return {
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      closing.abort(new CriError('unavailable', 'the daemon is stopping'));
      await Promise.all(running);
      server.closeAllConnections();
      await closed;
    },
  };
}

/** The mode is set by umask, so that there is no moment in which others may connect. */
async function listen(server: Server, path: string): Promise<void> {
  await rm(path, { force: true });
  const umask = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
      process.umask(umask); // the socket is bound by now
    });
  } finally {
    process.umask(umask);
  }
  await chmod(path, 0o600);
}

const statusOf: Partial<Record<ErrorKind, number>> = { invalidArgument: 400, notFound: 404, alreadyExists: 409, failedPrecondition: 409, unavailable: 503 };

async function answer(request: IncomingMessage, response: ServerResponse, work: (url: URL) => Promise<LoadAnswer>, log: Log): Promise<void> {
  const reply = (status: number, body: LoadAnswer): void => {
    // The rest of an upload nobody reads would keep the connection from being used again.
    if (!request.complete) response.setHeader('connection', 'close');
    response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`);
  };
  const url = new URL(request.url ?? '/', 'http://admin');
  if (url.pathname !== '/images/load') return reply(404, { error: `${url.pathname}: no such resource` });
  if (request.method !== 'POST') return reply(405, { error: `${request.method} ${url.pathname}: not allowed` });
  const started = performance.now();
  try {
    const result = await work(url);
    log.info({ count: 'images' in result ? result.images.length : 0, durationMs: Math.round(performance.now() - started) }, 'Loaded images');
    reply(200, result);
  } catch (err) {
    log.warn({ err }, 'Could not load images');
    reply(err instanceof CriError ? (statusOf[err.kind] ?? 500) : 500, { error: describeError(err) });
  }
}

type LoadContext = Pick<AdminDeps, 'stagingDir' | 'load'> & { readonly signal: AbortSignal };

async function loadImages(request: IncomingMessage, url: URL, { stagingDir, load, signal }: LoadContext): Promise<LoadAnswer> {
  const name = url.searchParams.get('name') ?? undefined;
  const directory = url.searchParams.get('path');
  if (directory !== null) {
    if (!isAbsolute(directory)) throw invalidField('path', directory, 'is not an absolute path');
    return { images: await load(directory, { name, signal }) };
  }
  await using received = await mkdtempDisposable(join(stagingDir, 'load-'));
  const archive = join(received.path, 'archive');
  await pipeline(request, createWriteStream(archive, { mode: 0o600 }), { signal });
  return { images: await load(archive, { name, signal }) };
}
