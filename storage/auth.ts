import { access, constants, readFile } from 'node:fs/promises';
import { CriError, isErrno } from '#base/errors.ts';
import { canonicalRegistry, parseReference } from './reference.ts';

/** Credentials as the CRI's AuthConfig brings them; empty strings where it says nothing. */
export interface RegistryAuth {
  readonly username: string;
  readonly password: string;
  /** base64 of `user:password`. */
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

/** What is shown to a registry or its token server. */
export type Credentials =
  | { readonly kind: 'none' }
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  /** An OAuth2 refresh token, exchanged at the token server. */
  | { readonly kind: 'identity'; readonly token: string }
  /** A token for the registry itself. */
  | { readonly kind: 'bearer'; readonly token: string };

const NONE: Credentials = { kind: 'none' };

/**
 * What the call's credentials mean for `registry`. Those that name another server are not for it: `none`.
 * @throws {CriError} `invalidArgument` when `auth` does not hold `user:password`; nothing of it is quoted.
 */
export function callCredentials(auth: RegistryAuth | undefined, registry: string): Credentials {
  if (auth === undefined) return NONE;
  if (auth.serverAddress !== '' && registryOfKey(auth.serverAddress) !== canonicalRegistry(registry)) return NONE;
  return credentialsOf(auth) ?? NONE;
}

function credentialsOf({ registryToken, identityToken, username, password, auth }: RegistryAuth): Credentials | undefined {
  if (registryToken !== '') return { kind: 'bearer', token: registryToken };
  if (identityToken !== '') return { kind: 'identity', token: identityToken };
  if (username !== '' || password !== '') return { kind: 'basic', username, password };
  if (auth === '') return undefined;
  const plain = Buffer.from(auth, 'base64').toString('utf8');
  const colon = plain.indexOf(':');
  if (colon < 0) throw new CriError('invalidArgument', 'registry credentials: auth is not base64 of user:password');
  // docker login pads the password with NULs.
  return { kind: 'basic', username: plain.slice(0, colon), password: plain.slice(colon + 1).replace(/\0+$/, '') };
}

/** An `auth.json` or Docker `config.json`, read once. Credential helpers in it are not asked. */
export class AuthFile {
  readonly #entries: ReadonlyMap<string, RegistryAuth>;

  constructor(entries: ReadonlyMap<string, RegistryAuth>) {
    this.#entries = entries;
  }

  /** The entry for `host/repository`, the longest path first, then the host alone. Source: containers-auth.json(5). */
  find(host: string, repository: string): Credentials {
    const entry = this.entry(host, repository);
    return entry === undefined ? NONE : (credentialsOf(entry) ?? NONE);
  }

  /** The same as a call would bring it. */
  entry(host: string, repository: string): RegistryAuth | undefined {
    for (let key = `${canonicalRegistry(host)}/${repository}`; ; key = key.slice(0, key.lastIndexOf('/'))) {
      const entry = this.#entries.get(key);
      if (entry !== undefined || !key.includes('/')) return entry;
    }
  }
}

/**
 * What a file has for an image, as a call would bring it; `undefined` when that is nothing.
 * @throws {CriError} `invalidArgument` when the file cannot be read or the reference is none.
 */
export async function authFor(path: string, reference: string): Promise<RegistryAuth | undefined> {
  const { registry, repository } = parseReference(reference);
  try {
    await access(path, constants.R_OK);
  } catch (err) {
    throw new CriError('invalidArgument', `credentials file ${path}: cannot be read`, { cause: err });
  }
  return (await loadAuthFile(path)).entry(registry, repository);
}

/**
 * Reads the file; an empty path or a missing file holds no credentials.
 * @throws {CriError} `failedPrecondition` naming the file, never its content.
 */
export async function loadAuthFile(path: string): Promise<AuthFile> {
  if (path === '') return new AuthFile(new Map());
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return new AuthFile(new Map());
    throw new CriError('failedPrecondition', `${path}: cannot be read`, { cause: err });
  }
  return parseAuthFile(text, path);
}

export function parseAuthFile(text: string, path: string): AuthFile {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    // The parser's own message quotes what it stumbled over, which may be a password.
    throw new CriError('failedPrecondition', `${path}: is not JSON`);
  }
  const auths = field(file, 'auths');
  const entries = new Map<string, RegistryAuth>();
  if (typeof auths !== 'object' || auths === null) return new AuthFile(entries);
  for (const [key, entry] of Object.entries(auths)) {
    const text = (name: string): string => {
      const value = field(entry, name);
      return typeof value === 'string' ? value : '';
    };
    entries.set(normaliseKey(key), {
      username: text('username'),
      password: text('password'),
      auth: text('auth'),
      serverAddress: '',
      identityToken: text('identitytoken'),
      registryToken: text('registrytoken'),
    });
  }
  return new AuthFile(entries);
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** Keys are `host[/path]`; older files of Docker have URLs such as `https://index.docker.io/v1/`, which mean the host. */
function normaliseKey(key: string): string {
  const bare = key.replace(/^https?:\/\//, '').replace(/\/+$/, '');
  if (bare !== key.replace(/\/+$/, '') || /\/v[12]$/.test(bare)) return registryOfKey(key);
  const slash = bare.indexOf('/');
  return slash < 0 ? canonicalRegistry(bare) : `${canonicalRegistry(bare.slice(0, slash))}${bare.slice(slash)}`;
}

function registryOfKey(key: string): string {
  return canonicalRegistry(key.replace(/^https?:\/\//, '').split('/')[0] ?? '');
}
