import { readFile } from 'node:fs/promises';
import { CriError, isErrno, quote } from '#base/errors.ts';
import { type IdentityMatch, parseIdentityMatch } from './identity.ts';
import { JobError } from './jobs.ts';
import { formatReference, type ImageReference, repositoryName } from './reference.ts';

/** Where one public key is, or what it is. */
export type KeySource = { readonly path: string } | { readonly pem: string };

/** One thing that the policy asks of an image. */
export type Requirement =
  | { readonly type: 'insecureAcceptAnything' }
  | { readonly type: 'reject' }
  /** A signature by one of the keys. */
  | { readonly type: 'sigstoreSigned'; readonly keys: readonly KeySource[]; readonly identity: IdentityMatch }
  /** Something that Berth cannot check, so that nothing passes it. */
  | { readonly type: 'unsupported'; readonly what: string };

/** Rules for some images. All requirements must be met. */
export interface Rule {
  /** `default`, or the scope below `transports.docker`; '' stands for all of that. */
  readonly scope: string;
  readonly requirements: readonly Requirement[];
}

/** A `policy.json`. Source of the format: containers-policy.json(5). Only its default and the transport `docker` concern registries. */
export class Policy {
  readonly #fallback: readonly Requirement[];
  readonly #scopes: ReadonlyMap<string, readonly Requirement[]>;
  /** The file, for messages; empty for none. */
  readonly path: string;

  constructor(path: string, fallback: readonly Requirement[], scopes: ReadonlyMap<string, readonly Requirement[]>) {
    this.path = path;
    this.#fallback = fallback;
    this.#scopes = scopes;
  }

  /** What applies where there is no file. */
  static acceptAnything(): Policy {
    return new Policy('', [{ type: 'insecureAcceptAnything' }], new Map());
  }

  /** The most specific rule that covers the image: its own name, then what is above it, then wildcards of its host, then the defaults. */
  ruleFor(reference: ImageReference): Rule {
    for (const scope of [...scopesOf(reference), '']) {
      const requirements = this.#scopes.get(scope);
      if (requirements !== undefined) return { scope, requirements };
    }
    return { scope: 'default', requirements: this.#fallback };
  }
}

/** `host/a/b:tag`, `host/a/b`, `host/a`, `host`, `*.rest.of.host`: a name with a digest goes by that, not by its tag. */
function scopesOf(reference: ImageReference): string[] {
  const name = repositoryName(reference);
  const { digest } = reference;
  const scopes = [digest === undefined ? formatReference(reference) : `${name}@${digest}`];
  for (let part = name; ; part = part.slice(0, part.lastIndexOf('/'))) {
    scopes.push(part);
    if (!part.includes('/')) break;
  }
  const host = reference.registry.replace(/:\d+$/, '');
  for (let dot = host.indexOf('.'); dot >= 0; dot = host.indexOf('.', dot + 1)) scopes.push(`*${host.slice(dot)}`);
  return scopes;
}

/**
 * Reads a policy. With `optional` a missing file accepts anything.
 * @throws {CriError} `unknown`, as a failed validation, naming the file and the place in it: what cannot be read lets nothing in.
 */
export async function loadPolicy(path: string, { optional }: { optional: boolean }): Promise<Policy> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (err) {
    if (optional && isErrno(err, 'ENOENT')) return Policy.acceptAnything();
    throw signatureFailure(`signature policy ${path} cannot be read`, err);
  }
  return parsePolicy(text, path);
}

/** The kubelet knows the first word. */
export function signatureFailure(why: string, cause?: unknown): CriError {
  return new CriError('unknown', `SignatureValidationFailed: ${why}`, { cause: cause ?? new JobError('policy', why) });
}

export function parsePolicy(text: string, path: string): Policy {
  const refuse = (where: string, why: string): CriError => signatureFailure(`signature policy ${path}: ${where === '' ? '' : `${where} `}${why}`);
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    throw refuse('', 'is not JSON');
  }
  const root = asTable(file);
  if (root === undefined) throw refuse('', 'is not an object');
  onlyKeys(root, ['default', 'transports'], '', refuse);
  const fallback = parseRequirements(root.default, 'default', refuse);
  const transports = asTable(root.transports ?? {});
  if (transports === undefined) throw refuse('transports', 'is not an object');
  const docker = asTable(transports.docker ?? {});
  if (docker === undefined) throw refuse('transports.docker', 'is not an object');
  const scopes = Object.entries(docker).map(([scope, value]) => [scope, parseRequirements(value, `transports.docker[${quote(scope)}]`, refuse)] as const);
  return new Policy(path, fallback, new Map(scopes));
}

type Refuse = (where: string, why: string) => CriError;

function parseRequirements(value: unknown, where: string, refuse: Refuse): Requirement[] {
  if (!Array.isArray(value) || value.length === 0) throw refuse(where, 'is not a list of requirements');
  return value.map((entry, index) => parseRequirement(asTable(entry), `${where}[${index}]`, refuse));
}

function parseRequirement(entry: Record<string, unknown> | undefined, where: string, refuse: Refuse): Requirement {
  if (entry === undefined) throw refuse(where, 'is not an object');
  switch (entry.type) {
    case 'insecureAcceptAnything':
    case 'reject':
      onlyKeys(entry, ['type'], where, refuse);
      return { type: entry.type };
    case 'signedBy':
    case 'signedBaseLayer':
      return { type: 'unsupported', what: entry.type };
    case 'sigstoreSigned':
      return parseSigstore(entry, where, refuse);
    default:
      throw refuse(where, `has the unknown type ${quote(entry.type ?? null)}`);
  }
}

const ONE_KEY = ['keyPath', 'keyData'];
const MANY_KEYS = ['keyPaths', 'keyDatas'];
/** Proofs of identity and transparency that come from services, not from a key. */
const SERVICES = ['fulcio', 'pki', 'rekorPublicKeyPath', 'rekorPublicKeyPaths', 'rekorPublicKeyData', 'rekorPublicKeyDatas'];

function parseSigstore(entry: Record<string, unknown>, where: string, refuse: Refuse): Requirement {
  onlyKeys(entry, ['type', 'signedIdentity', ...ONE_KEY, ...MANY_KEYS, ...SERVICES], where, refuse);
  const service = SERVICES.find((key) => entry[key] !== undefined);
  if (service !== undefined) return { type: 'unsupported', what: `sigstoreSigned with ${service}` };
  const given = [...ONE_KEY, ...MANY_KEYS].filter((key) => entry[key] !== undefined);
  const [key] = given;
  if (key === undefined || given.length > 1)
    throw refuse(where, `has ${given.length === 0 ? 'none' : 'more than one'} of ${[...ONE_KEY, ...MANY_KEYS].join(', ')}`);
  const values = ONE_KEY.includes(key) ? [entry[key]] : entry[key];
  if (!Array.isArray(values) || values.length === 0 || !values.every((value) => typeof value === 'string' && value !== '')) {
    throw refuse(`${where}.${key}`, `is not ${ONE_KEY.includes(key) ? 'a string' : 'a list of strings'}`);
  }
  const isPath = key.startsWith('keyPath');
  const keys = (values as string[]).map((value): KeySource => (isPath ? { path: value } : { pem: Buffer.from(value, 'base64').toString('utf8') }));
  return {
    type: 'sigstoreSigned',
    keys,
    identity: parseIdentityMatch(asTable(entry.signedIdentity), entry.signedIdentity === undefined, `${where}.signedIdentity`, refuse),
  };
}

function onlyKeys(table: Record<string, unknown>, known: readonly string[], where: string, refuse: Refuse): void {
  const other = Object.keys(table).find((key) => !known.includes(key));
  if (other !== undefined) throw refuse(where, `has the unknown key ${quote(other)}`);
}

function asTable(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
}
