import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { CriError, describeError, isErrno, quote } from '#base/errors.ts';
import { type ImageReference, parseReference } from './reference.ts';
import { type Mirror, RegistriesConf, type Registry, SHORT_NAME_MODES, type ShortNameMode } from './registries-conf.ts';

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
      throw unreadable(file, err);
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
    throw unreadable(directory, err);
  }
}

function unreadable(path: string, err: unknown): CriError {
  return new CriError('failedPrecondition', `${path}: cannot be read`, { cause: err });
}

export function parseRegistriesConf(files: readonly { readonly path: string; readonly text: string }[]): RegistriesConf {
  const registries = new Map<string, Registry>();
  const aliases = new Map<string, string>();
  const ignored: string[] = [];
  let search: readonly string[] = [];
  let mode: ShortNameMode | undefined;
  for (const { path, text } of files) {
    const refuse = (why: string): CriError => new CriError('failedPrecondition', `${path}: ${why}`);
    const table = parseToml(text, path);
    if (table.registries !== undefined) throw refuse('is in version 1 of the format ([registries.search] and the like); write [[registry]] tables instead');
    const read = new TableReader(table, refuse);
    if (table['unqualified-search-registries'] !== undefined) search = read.strings('unqualified-search-registries').map((host) => checkHost(host, refuse));
    if (table['short-name-mode'] !== undefined) mode = parseMode(read.string('short-name-mode'), refuse);
    const helpers = read.strings('credential-helpers').filter((helper) => helper !== 'containers-auth.json');
    if (helpers.length > 0) ignored.push(`${path}: credential-helpers ${helpers.join(', ')}`);
    for (const entry of read.tables('registry')) {
      const registry = parseRegistry(new TableReader(entry, refuse), refuse);
      registries.set(registry.prefix, registry);
    }
    for (const [short, full] of Object.entries(read.table('aliases'))) parseAlias(short, full, aliases, refuse);
  }
  return new RegistriesConf({ registries: [...registries.values()], search, aliases, mode, ignored });
}

type Refuse = (why: string) => CriError;

function parseToml(text: string, path: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (err) {
    const place = err instanceof TomlError ? `${path}:${err.line}` : path;
    throw new CriError('failedPrecondition', `${place}: ${describeError(err).split('\n')[0] ?? 'is not TOML'}`);
  }
}

function parseMode(text: string, refuse: Refuse): ShortNameMode {
  const mode = SHORT_NAME_MODES.find((each) => each === text);
  if (mode === undefined) throw refuse(`short-name-mode ${quote(text)} is not ${SHORT_NAME_MODES.join(', ')}`);
  return mode;
}

/** An empty target takes back an alias of an earlier file. */
function parseAlias(short: string, full: unknown, aliases: Map<string, string>, refuse: Refuse): void {
  if (typeof full !== 'string') throw refuse(`alias ${quote(short)} is not a string`);
  if (full === '') {
    aliases.delete(short);
    return;
  }
  const names = [short, full].map((name) => parseName(name, (why) => refuse(`alias ${quote(short)}: ${why}`)));
  if (names[0]?.qualified === true) throw refuse(`alias ${quote(short)} names a registry, so it is not short`);
  if (names[1]?.qualified !== true) throw refuse(`alias ${quote(short)} leads to ${quote(full)}, which names no registry`);
  aliases.set(short, full);
}

function parseName(name: string, refuse: Refuse): ImageReference {
  if (/:[^/]*$|@/.test(name)) throw refuse(`${quote(name)} has a tag or a digest`);
  try {
    return parseReference(name);
  } catch (err) {
    throw refuse(describeError(err));
  }
}

function checkHost(host: string, refuse: Refuse): string {
  if (!/^[a-zA-Z0-9[][^\s/]*$/.test(host)) throw refuse(`unqualified-search-registries has ${quote(host)}, which is no host`);
  return host;
}

function parseRegistry(read: TableReader, refuse: Refuse): Registry {
  const location = parseLocation(read.string('location'), refuse);
  const prefix = trimSlash(read.string('prefix')) || location;
  if (prefix === '') throw refuse('a [[registry]] has neither prefix nor location');
  if (prefix.includes('*') && !/^\*\.[^*/@:]+$/.test(prefix)) throw refuse(`prefix ${quote(prefix)} is not of the form *.example.com`);
  if (location === '' && !prefix.startsWith('*.')) throw refuse(`registry ${quote(prefix)} has no location`);
  const digestOnly = read.boolean('mirror-by-digest-only');
  const mirrors = read.tables('mirror').map((entry): Mirror => {
    const mirror = new TableReader(entry, refuse);
    const use = mirror.string('pull-from-mirror') || (digestOnly ? 'digest-only' : 'all');
    if (use !== 'all' && use !== 'digest-only' && use !== 'tag-only') throw refuse(`pull-from-mirror ${quote(use)} is not all, digest-only or tag-only`);
    if (digestOnly && mirror.string('pull-from-mirror') !== '')
      throw refuse(`registry ${quote(prefix)} has mirror-by-digest-only, and a mirror with pull-from-mirror: only one of them may say`);
    const where = parseLocation(mirror.string('location'), refuse);
    if (where === '') throw refuse(`a mirror of ${quote(prefix)} has no location`);
    return { location: where, insecure: mirror.boolean('insecure'), use };
  });
  return { prefix, location, insecure: read.boolean('insecure'), blocked: read.boolean('blocked'), mirrors };
}

/** `host[:port][/path]`, without what URLs have in front. */
function parseLocation(text: string, refuse: Refuse): string {
  if (text.includes('://')) throw refuse(`location ${quote(text)} has a scheme; write the host alone, and insecure = true for plain HTTP`);
  if (/[\s*]/.test(text)) throw refuse(`location ${quote(text)} is no place`);
  return trimSlash(text);
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
  readonly #refuse: Refuse;

  constructor(table: Record<string, unknown>, refuse: Refuse) {
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

  table(key: string): Record<string, unknown> {
    const table = asTable(this.#table[key] ?? {});
    if (table === undefined) throw this.#refuse(`${key} is not a table`);
    return table;
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
