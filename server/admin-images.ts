import { createWriteStream } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { CriError, invalidField } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { authFor, type CheckFinding, type CheckSummary, type Image, type PullProgress, type RegistryAuth, type Storage } from '../storage/storage.ts';
import type { AdminCall, AdminRoute } from './admin.ts';
import { removeImageNamed } from './rpc/image.ts';

/** How often a pull's progress is told to who asked for it. */
const TELL_MS = 200;
const MAX_REQUEST_BYTES = 64 * 1024;

/** An image of the store, for people. */
export type ImageSummary = Pick<Image, 'id' | 'repoTags' | 'repoDigests' | 'sizeBytes' | 'pinned'>;

/** `GET /images`, and the answer to `POST /images/load`. */
export interface ImagesAnswer {
  readonly images: readonly ImageSummary[];
}

/** `GET /images/pulls`. */
export interface PullsAnswer {
  readonly pulls: readonly PullProgress[];
}

/** The body of `POST /images/pull`. */
export interface PullRequest {
  readonly reference: string;
  /** Shown to the registry of the reference. */
  readonly username?: string;
  readonly password?: string;
  /** An auth.json or Docker config.json to look for credentials in; absolute. */
  readonly authFile?: string;
}

/** Lines before the answer to `POST /images/pull`. */
export interface PullLine {
  readonly progress: PullProgress;
}

export interface PullAnswer {
  readonly image: ImageSummary;
}

/** `POST /images/remove`; null when there is no such image. */
export interface RemoveAnswer {
  readonly removed: string | null;
}

/** Lines before the answer to `POST /images/check`. */
export interface FindingLine {
  readonly finding: CheckFinding;
}

export interface CheckAnswer {
  readonly summary: CheckSummary;
}

export interface ImageRoutesDeps {
  readonly storage: Pick<Storage, 'images' | 'pulls' | 'pullProgress' | 'pull' | 'load' | 'find' | 'remove' | 'check'>;
  /** Archives are received below it, and taken away again. */
  readonly stagingDir: string;
  readonly log: Log;
}

/**
 * `GET /images`, `GET /images/pulls`, `POST /images/pull` with a `PullRequest`, `POST /images/remove?name=`,
 * `POST /images/check?full=1&repair=1`, and `POST /images/load?name=REF` with the archive as the body or with
 * `&path=DIRECTORY` and no body.
 */
export function imageRoutes(deps: ImageRoutesDeps): AdminRoute[] {
  const { storage, log } = deps;
  return [
    { method: 'GET', path: '/images', answer: async () => ({ images: storage.images().map(summary) }) satisfies ImagesAnswer },
    { method: 'GET', path: '/images/pulls', answer: async () => ({ pulls: storage.pulls() }) satisfies PullsAnswer },
    { method: 'POST', path: '/images/pull', answer: (call) => pull(call, deps) },
    { method: 'POST', path: '/images/load', answer: (call) => load(call, deps) },
    {
      method: 'POST',
      path: '/images/remove',
      answer: async ({ url, signal }) => {
        const name = url.searchParams.get('name') ?? '';
        if (name === '') throw invalidField('name', name, 'names no image');
        return { removed: (await removeImageNamed({ storage, log }, name, signal)) ?? null } satisfies RemoveAnswer;
      },
    },
    {
      method: 'POST',
      path: '/images/check',
      answer: async ({ url, signal, tell }) => {
        const options = { full: isSet(url, 'full'), repair: isSet(url, 'repair'), signal };
        return { summary: await storage.check(options, (finding) => tell({ finding } satisfies FindingLine)) } satisfies CheckAnswer;
      },
    },
  ];
}

async function pull({ request, signal, tell }: AdminCall, { storage, log }: ImageRoutesDeps): Promise<PullAnswer> {
  const { reference, username = '', password = '', authFile } = await readPullRequest(request);
  const given: RegistryAuth = { username, password, auth: '', serverAddress: '', identityToken: '', registryToken: '' };
  const auth = username !== '' || password !== '' ? given : authFile === undefined ? undefined : await authFor(authFile, reference);
  const options = auth === undefined ? {} : { auth };
  const tellProgress = (): void => {
    const progress = storage.pullProgress(reference, options);
    if (progress !== undefined) tell({ progress } satisfies PullLine);
  };
  const timer = setInterval(tellProgress, TELL_MS);
  try {
    const image = await storage.pull(reference, { ...options, signal });
    log.info({ image: reference, reason: image.id }, 'Pulled image');
    return { image: summary(image) };
  } finally {
    clearInterval(timer);
  }
}

async function readPullRequest(request: AdminCall['request']): Promise<PullRequest> {
  if (Number(request.headers['content-length'] ?? 0) > MAX_REQUEST_BYTES) throw new CriError('invalidArgument', 'the request is too long');
  let body: Partial<Record<keyof PullRequest, unknown>> | null;
  try {
    body = JSON.parse(await text(request)) as typeof body;
  } catch (err) {
    throw new CriError('invalidArgument', 'the request is not JSON', { cause: err });
  }
  const { reference, username, password, authFile } = body ?? {};
  if (typeof reference !== 'string' || reference === '') throw invalidField('reference', reference, 'names no image');
  for (const [name, value] of Object.entries({ username, password, authFile })) {
    // The value itself may be a secret.
    if (value !== undefined && typeof value !== 'string') throw new CriError('invalidArgument', `${name}: is not a string`);
  }
  if (typeof authFile === 'string' && !isAbsolute(authFile)) throw invalidField('authFile', authFile, 'is not an absolute path');
  return body as PullRequest;
}

async function load({ request, url, signal }: AdminCall, { storage, stagingDir, log }: ImageRoutesDeps): Promise<ImagesAnswer> {
  const name = url.searchParams.get('name');
  const options = { signal, ...(name === null ? {} : { name }) };
  const loadFrom = async (path: string): Promise<ImagesAnswer> => {
    const images = await storage.load(path, options);
    log.info({ count: images.length }, 'Loaded images');
    return { images: images.map(summary) };
  };
  const directory = url.searchParams.get('path');
  if (directory !== null) {
    if (!isAbsolute(directory)) throw invalidField('path', directory, 'is not an absolute path');
    return await loadFrom(directory);
  }
  await using received = await mkdtempDisposable(join(stagingDir, 'load-'));
  const archive = join(received.path, 'archive');
  await pipeline(request, createWriteStream(archive, { mode: 0o600 }), { signal });
  return await loadFrom(archive);
}

function isSet(url: URL, name: string): boolean {
  const value = url.searchParams.get(name);
  if (value === null || value === '0') return false;
  if (value === '1') return true;
  throw invalidField(name, value, 'is neither 0 nor 1');
}

function summary({ id, repoTags, repoDigests, sizeBytes, pinned }: Image): ImageSummary {
  return { id, repoTags, repoDigests, sizeBytes, pinned };
}
