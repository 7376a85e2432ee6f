import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'smol-toml';
import { CriError, describeError, isErrno, quote } from '#base/errors.ts';
import { atRegistry, formatReference, type ImageReference, parseReference, repositoryName } from './reference.ts';

/** A place an image may be fetched from. */
export interface Endpoint {
  /** Host with an optional port, as in a URL's authority. */
  readonly host: string;
  readonly repository: string;
  /** Certificates are not checked, and plain HTTP is tried where TLS is not spoken. */
  readonly insecure: boolean;
  readonly mirror: boolean;
}

interface Location {
  readonly location: string;
  readonly insecure: boolean;
}

interface Mirror extends Location {
  readonly use: 'all' | 'digest-only' | 'tag-only';
}

interface Registry extends Location {
  readonly prefix: string;
  readonly blocked: boolean;
  readonly mirrors: readonly Mirror[];
}

/** Files of containers-registries.conf(5), version 2, already merged. Keys that Berth does not know are left to other tools. */
export class RegistriesConf {
  readonly #registries: readonly Registry[];
  readonly #search: readonly string[];
  readonly #aliases: ReadonlyMap<string, string>;

  constructor(registries: readonly Registry[], search: readonly string[], aliases: ReadonlyMap<string, string>) {
    this.#registries = registries;
    this.#search = search;
    this.#aliases = aliases;
  }

  /** The names to try for a reference, best first: itself, or for a short one its alias or the search registries. */
  candidates(reference: ImageReference): ImageReference[] {
    if (reference.qualified) return [reference];
    const short = repositoryName(reference).replace(/^docker\.io\/(library\/)?/, '');
    const alias = this.#aliases.get(short);
    if (alias !== undefined) {
      const { registry, repository } = parseReference(alias);
      return [{ ...reference, registry, repository, qualified: true }];
    }
    if (this.#search.length === 0) return [reference];
    return this.#search.map((registry) => atRegistry(reference, registry));
  }

  /**
   * Where to fetch a reference from, in order: its mirrors, then its own location.
   * @throws {CriError} `failedPrecondition` when its registry is blocked.
   */
  endpoints(reference: ImageReference): Endpoint[] {
    const name = repositoryName(reference);
    const registry = this.#match(formatReference(reference));
    if (registry === undefined) return [{ host: reference.registry, repository: reference.repository, insecure: false, mirror: false }];
    if (registry.blocked) throw new CriError('failedPrecondition', `registry ${registry.prefix} is blocked in registries.conf, so ${name} is not pulled`);
    const rest = restAfter(registry.prefix, name);
    const mirrors = registry.mirrors.filter(({ use }) => use === 'all' || (use === 'digest-only') === (reference.digest !== undefined));
    return [
      ...mirrors.map(({ location, insecure }) => ({ ...splitLocation(location + rest), insecure, mirror: true })),
      { ...splitLocation(registry.location === '' ? name : registry.location + rest), insecure: registry.insecure, mirror: false },
    ];
  }

  #match(name: string): Registry | undefined {
    let best: Registry | undefined;
    for (const registry of this.#registries) {
      if (covers(registry.prefix, name) && (best === undefined || registry.prefix.length > best.prefix.length)) best = registry;
    }
    return best;
  }
}

/** A prefix ends at a boundary of the name; `*.host` stands for every subdomain. */
function covers(prefix: string, name: string): boolean {
  if (prefix.startsWith('*.')) return hostOf(name).replace(/:\d+$/, '').endsWith(prefix.slice(1));
  if (!name.startsWith(prefix)) return false;
  const next = name[prefix.length];
  return next === undefined || next === '/' || next === ':' || next === '@';
}

function restAfter(prefix: string, name: string): string {
  return name.slice(prefix.startsWith('*.') ? hostOf(name).length : Math.min(prefix.length, name.length));
}

function hostOf(name: string): string {
  return name.slice(0, name.indexOf('/'));
}

function splitLocation(location: string): { host: string; repository: string } {
  const slash = location.indexOf('/');
  return { host: location.slice(0, slash), repository: location.slice(slash + 1) };
}

/**
 * Reads `path` and the files `*.conf` of `<path>.d`, in the order of their names. A missing file is an empty one; a later
 * registry of the same prefix replaces the earlier.
 * @throws {CriError} `failedPrecondition` naming the file and what is wrong with it.
 */
export async function loadRegistriesConf(path: string): Promise<RegistriesConf> {
  const paths = path === '' ? [] : [path, ...(await dropIns(`${path}.d`))];
  const files: { path: string; text: string }[] = [];
  for (const file of paths) {
    const text = await readFile(file, 'utf8').catch((err: unknown) => {
      if (isErrno(err, 'ENOENT')) return undefined;
      throw err;
    });
    if (text !== undefined) files.push({ path: file, text });
  }
  return parseRegistriesConf(files);
}

async function dropIns(directory: string): Promise<string[]> {
  try {
    const names = await readdir(directory);
    return names
      .filter((name) => name.endsWith('.conf'))
      .sort()
      .map((name) => join(directory, name));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return [];
    throw err;
  }
}

export function parseRegistriesConf(files: readonly { readonly path: string; readonly text: string }[]): RegistriesConf {
  const registries = new Map<string, Registry>();
  const aliases = new Map<string, string>();
  let search: readonly string[] = [];
  for (const { path, text } of files) {
    const refuse = (why: string): CriError => new CriError('failedPrecondition', `${path}: ${why}`);
    let table: Record<string, unknown>;
    try {
      table = parse(text);
    } catch (err) {
      throw refuse(describeError(err).split('\n')[0] ?? 'is not TOML');
    }
    if (table.registries !== undefined) throw refuse('is in version 1 of the format; write [[registry]] tables instead');
    const read = new TableReader(table, refuse);
    if (table['unqualified-search-registries'] !== undefined) search = read.strings('unqualified-search-registries');
    for (const entry of read.tables('registry')) {
      const registry = parseRegistry(new TableReader(entry, refuse), refuse);
      registries.set(registry.prefix, registry);
    }
    for (const [short, full] of Object.entries(asTable(table.aliases) ?? {})) {
      if (typeof full !== 'string') throw refuse(`alias ${quote(short)} is not a string`);
      aliases.set(short, full);
    }
  }
  return new RegistriesConf([...registries.values()], search, aliases);
}

function parseRegistry(read: TableReader, refuse: (why: string) => CriError): Registry {
  const location = trimSlash(read.string('location'));
  const prefix = trimSlash(read.string('prefix')) || location;
  if (prefix === '') throw refuse('a [[registry]] has neither prefix nor location');
  if (location === '' && !prefix.startsWith('*.')) throw refuse(`registry ${quote(prefix)} has no location`);
  const digestOnly = read.boolean('mirror-by-digest-only');
  const mirrors = read.tables('mirror').map((entry): Mirror => {
    const mirror = new TableReader(entry, refuse);
    const use = mirror.string('pull-from-mirror') || (digestOnly ? 'digest-only' : 'all');
    if (use !== 'all' && use !== 'digest-only' && use !== 'tag-only') throw refuse(`pull-from-mirror ${quote(use)} is not all, digest-only or tag-only`);
    const where = trimSlash(mirror.string('location'));
    if (where === '') throw refuse(`a mirror of ${quote(prefix)} has no location`);
    return { location: where, insecure: mirror.boolean('insecure'), use };
  });
  return { prefix, location, insecure: read.boolean('insecure'), blocked: read.boolean('blocked'), mirrors };
}

function trimSlash(text: string): string {
  return text.replace(/\/+$/, '');
}

function asTable(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
}

/** Typed reads of one TOML table; absent keys read as empty. */
class TableReader {
  readonly #table: Record<string, unknown>;
  readonly #refuse: (why: string) => CriError;

  constructor(table: Record<string, unknown>, refuse: (why: string) => CriError) {
    this.#table = table;
    this.#refuse = refuse;
  }

  string(key: string): string {
    const value = this.#table[key] ?? '';
    if (typeof value !== 'string') throw this.#refuse(`${key} is not a string: ${quote(value)}`);
    return value;
  }

  boolean(key: string): boolean {
    const value = this.#table[key] ?? false;
    if (typeof value !== 'boolean') throw this.#refuse(`${key} is not true or false: ${quote(value)}`);
    return value;
  }

  strings(key: string): string[] {
    const value = this.#table[key] ?? [];
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) throw this.#refuse(`${key} is not a list of strings: ${quote(value)}`);
    return value;
  }

  tables(key: string): Record<string, unknown>[] {
    const value = this.#table[key] ?? [];
    const tables = Array.isArray(value) ? value.map(asTable) : [undefined];
    return tables.map((table) => {
      if (table === undefined) throw this.#refuse(`${key} is not a list of tables`);
      return table;
    });
  }
}
