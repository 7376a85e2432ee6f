import type { IncomingMessage } from 'node:http';
import { isErrno } from '#base/errors.ts';
import { type Digest, digestOf, isDigest } from './digest.ts';
import { bodyOf, discardBody, HttpClient, type HttpOptions, readBody } from './http.ts';
import { JobError, type ManifestJob, type ManifestResult, type Target } from './jobs.ts';
import { MANIFEST_TYPES, MAX_MANIFEST_BYTES } from './manifest.ts';
import { type Answer, getFollowing } from './redirect.ts';
import { registryHost } from './reference.ts';
import { PassingError, parseRetryAfter, withRetries } from './retry.ts';
import { basicHeader, fetchToken, parseChallenges } from './token.ts';

const MAX_ERROR_BYTES = 64 * 1024;

export interface FetchOptions {
  /** Without a byte for so long a request fails. */
  readonly idleMs: number;
  readonly signal: AbortSignal;
  /** Told of each request that is sent again. */
  readonly onRetry?: () => void;
}

/** Where a blob's bytes go; see `PartialFile`. */
export interface BlobSink {
  /** Bytes it has, from the first on: the rest is asked for. */
  readonly bytes: number;
  write(chunk: Buffer): void;
  /** What follows are the bytes from the first on. */
  restart(): void;
  digest(): Digest;
}

/** The pull side of the OCI distribution spec, one registry endpoint at a time. Lives in the fetch child only. */
export class RegistryClient {
  readonly #http: HttpClient;
  /** Authorization headers that worked, by endpoint and credentials. */
  readonly #authorizations = new Map<string, string>();
  /** Whether an insecure host speaks TLS, once that is known. */
  readonly #schemes = new Map<string, 'https:' | 'http:'>();

  constructor(options: HttpOptions) {
    this.#http = new HttpClient(options);
  }

  /**
   * Fetches a manifest and checks it against the digest asked for, or against the one the registry says it has, and
   * against its size where that is known.
   */
  manifest(
    target: Target,
    { reference, sizeBytes }: Pick<ManifestJob, 'reference' | 'sizeBytes'>,
    options: FetchOptions,
  ): Promise<Omit<ManifestResult, 'target'>> {
    return withRetries(async () => {
      const what = `manifest ${reference} at ${target.host}`;
      const response = await this.#get(target, `manifests/${reference}`, { accept: MANIFEST_TYPES.join(', ') }, options);
      if (/^text\/html\b/i.test(response.headers['content-type'] ?? '')) {
        response.destroy();
        throw new JobError('corrupt', `${what} is a web page: this is no registry, or a proxy or a login page answers in its place`);
      }
      const bytes = await bodyOf(response, what, () => readBody(response, MAX_MANIFEST_BYTES, what), options.signal);
      const digest = digestOf(bytes);
      const said = response.headers['docker-content-digest'];
      const expected = isDigest(reference) ? reference : isDigest(said) ? said : digest;
      if (digest !== expected) throw new JobError('corrupt', `manifest ${reference} has digest ${digest}, not ${expected}`);
      if (sizeBytes !== undefined && bytes.length !== sizeBytes)
        throw new JobError('corrupt', `manifest ${reference} has ${bytes.length} bytes, not ${sizeBytes}`);
      return { text: bytes.toString(), contentType: response.headers['content-type'] ?? '', digest };
    }, options);
  }

  /**
   * Fetches what `sink` lacks of a blob. A broken connection goes on where it stopped, if the registry can. Ends well only
   * when size and digest are those asked for.
   */
  async blob(target: Target, blob: { digest: Digest; sizeBytes: number }, sink: BlobSink, options: FetchOptions): Promise<void> {
    // How far it has ever come: beginning anew again and again is no progress.
    let furthest = sink.bytes;
    let moved = false;
    const attempt = async (): Promise<void> => {
      const from = sink.bytes;
      moved = false;
      const what = `blob ${blob.digest} at ${target.host}`;
      const response = await this.#get(target, `blobs/${blob.digest}`, from === 0 ? {} : { range: `bytes=${from}-` }, options);
      if (from > 0 && !continues(response, from)) {
        sink.restart();
      }
      const read = (): Promise<void> =>
        new Promise((resolve, reject) => {
          response.on('data', (chunk: Buffer) => {
            try {
              if (sink.bytes + chunk.length > blob.sizeBytes) throw new JobError('corrupt', `blob ${blob.digest} is longer than its ${blob.sizeBytes} bytes`);
              sink.write(chunk);
              if (sink.bytes > furthest) {
                furthest = sink.bytes;
                moved = true;
              }
            } catch (err) {
              reject(err); // before destroy, whose own error would come first
              response.destroy();
            }
          });
          response.on('end', resolve);
          response.on('error', reject);
          response.on('close', () => reject(new PassingError(`${what}: connection closed early`)));
        });
      await bodyOf(response, what, read, options.signal);
      if (sink.bytes < blob.sizeBytes) throw new PassingError(`${what} ended after ${sink.bytes} of ${blob.sizeBytes} bytes`);
    };
    if (sink.bytes < blob.sizeBytes || blob.sizeBytes === 0) await withRetries(attempt, { ...options, hasMoved: () => moved });
    const digest = sink.digest();
    if (digest !== blob.digest) throw new JobError('corrupt', `blob ${blob.digest} came with digest ${digest}`);
  }

  /** GET below the repository's URL; the response has status 200 or 206. */
  async #get(target: Target, path: string, headers: Readonly<Record<string, string>>, options: FetchOptions): Promise<IncomingMessage> {
    const key = JSON.stringify([target.host, target.repository, target.credentials]);
    if (target.credentials.kind === 'bearer') this.#authorizations.set(key, `Bearer ${target.credentials.token}`);
    for (let renewed = false; ; renewed = true) {
      const authorization = this.#authorizations.get(key);
      const { response, elsewhere } = await this.#send(target, path, authorization === undefined ? headers : { ...headers, authorization }, options);
      if (response.statusCode === 200 || response.statusCode === 206) return response;
      const mayAuthorise = response.statusCode === 401 && elsewhere === undefined && !renewed && target.credentials.kind !== 'bearer';
      const renewal = mayAuthorise ? await this.#authorise(target, response, options) : undefined;
      if (renewal === undefined) throw await refusal(response, { target, path, elsewhere, signal: options.signal });
      discardBody(response);
      this.#authorizations.set(key, renewal);
    }
  }

  /** The Authorization header that answers a 401; `undefined` when there is nothing to answer it with. */
  async #authorise(target: Target, response: IncomingMessage, options: FetchOptions): Promise<string | undefined> {
    const challenges = parseChallenges(response.headers['www-authenticate'] ?? '');
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    const { credentials, insecure, host } = target;
    if (bearer !== undefined) {
      const scope = `repository:${target.repository}:pull`;
      return `Bearer ${await fetchToken(this.#http, { challenge: bearer, credentials, scope, registry: host, insecure, ...options })}`;
    }
    if (challenges.some(({ scheme }) => scheme === 'basic') && credentials.kind === 'basic') return basicHeader(credentials.username, credentials.password);
    return undefined;
  }

  async #send(target: Target, path: string, headers: Readonly<Record<string, string>>, options: FetchOptions): Promise<Answer> {
    const host = registryHost(target.host);
    const ask = (scheme: 'https:' | 'http:', insecure: boolean): Promise<Answer> =>
      getFollowing(this.#http, new URL(`${scheme}//${host}/v2/${target.repository}/${path}`), { headers, registry: target.host, insecure, ...options });
    const scheme = target.insecure ? this.#schemes.get(host) : 'https:';
    if (scheme !== undefined) return ask(scheme, target.insecure);
    try {
      const answer = await ask('https:', true);
      this.#schemes.set(host, 'https:');
      return answer;
    } catch (err) {
      if (!(err instanceof JobError) || !this.#mayBePlain(err, host)) throw err;
      const answer = await ask('http:', true);
      this.#schemes.set(host, 'http:');
      return answer;
    }
  }

  /** Whether a host that failed by TLS may speak plain HTTP: not one that has no address, or that spoke TLS to refuse us. */
  #mayBePlain(err: JobError, host: string): boolean {
    if (err instanceof PassingError || err.kind !== 'unreachable') return false;
    if (isErrno(err.cause, 'ENOTFOUND', 'EAI_AGAIN')) return this.#http.isProxied(new URL(`http://${host}/`));
    return !(err.cause instanceof Error && 'code' in err.cause && /ALERT/.test(String(err.cause.code)));
  }
}

/** Whether a response has the bytes from `from` on; 200 means all of them. Source: RFC 9110, 15.3.7. */
function continues(response: IncomingMessage, from: number): boolean {
  if (response.statusCode !== 206) return false;
  const said = /^bytes (\d+)-/.exec(response.headers['content-range'] ?? '')?.[1];
  if (said === undefined || Number(said) === from) return true;
  response.destroy();
  throw new JobError('corrupt', `registry sent the bytes from ${said} on, not from ${from}`);
}

/** What a response that is no success means. */
async function refusal(
  response: IncomingMessage,
  { target, path, elsewhere, signal }: { target: Target; path: string; elsewhere: string | undefined; signal: AbortSignal },
): Promise<JobError> {
  const { host, repository, credentials } = target;
  const status = response.statusCode ?? 0;
  const said = await bodyOf(response, 'error', () => readBody(response, MAX_ERROR_BYTES, 'error'), signal).then(registryMessage, () => '');
  const what = `${path} of ${repository} at ${host}`;
  if (status === 408 || status === 429 || status >= 500)
    return new PassingError(`${what}: registry answers ${status}${said}`, parseRetryAfter(response.headers['retry-after'], Date.now()));
  if (elsewhere !== undefined) return new JobError('other', `${what}: ${elsewhere}, to which the registry redirects, answers ${status}`);
  if (status === 404) return new JobError('notFound', `${what} is not there${said}`);
  if (status === 401 || status === 403) {
    const why = credentials.kind === 'none' ? 'wants credentials, and none were given' : 'refuses the credentials';
    return new JobError('unauthorised', `${what}: registry ${why} (${status})${said}`);
  }
  return new JobError('other', `${what}: registry answers ${status}${said}`);
}

/** The error codes of the spec's JSON body, as `: CODE, CODE`. Messages and details are left out: they may repeat what was sent. */
function registryMessage(body: Buffer): string {
  try {
    const { errors } = JSON.parse(body.toString()) as { errors?: { code?: unknown }[] };
    const codes = (errors ?? []).map(({ code }) => String(code)).filter((code) => /^[A-Z_]{1,60}$/.test(code));
    return codes.length === 0 ? '' : `: ${codes.slice(0, 3).join(', ')}`;
  } catch {
    return '';
  }
}
