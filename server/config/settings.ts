import { CriError, quote } from '#base/errors.ts';
import { scanIni } from './ini.ts';
import { HANDLER_SECTION, handlerKeys, keys } from './keys.ts';
import { BadValue, type ValueType } from './values.ts';

/** A configuration file that has been read. */
export interface ConfigText {
  readonly path: string;
  readonly text: string;
}

/** Where a value or a section stands. `line` is 0 for the command line. */
export interface Place {
  readonly path: string;
  readonly line: number;
}

/** What the files and the command line say for one key: its items and where the last of them stands. */
interface Setting {
  readonly items: readonly string[];
  readonly place: Place;
}

export const formatPlace = ({ path, line }: Place): string => (line === 0 ? path : `${path}:${line}`);

const COMMAND_LINE = 'command line';

/** A handler's name is what RuntimeClass calls it: a DNS label of RFC 1123. */
const HANDLER_NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/**
 * Everything that is set, with where, and every problem found on the way. Later files win; a list in a later file
 * replaces the one before it; within one file `key[] = item` lines add up.
 */
export class Settings {
  readonly #settings = new Map<string, Setting>();
  readonly #handlers = new Map<string, Place>();
  readonly #problems: { readonly place: Place; readonly text: string }[] = [];
  readonly #order: readonly string[];

  constructor(files: readonly ConfigText[], overrides: Readonly<Record<string, string>>) {
    this.#order = [...files.map(({ path }) => path), COMMAND_LINE];
    for (const file of files) this.#readFile(file);
    for (const [name, value] of Object.entries(overrides)) {
      const dot = name.lastIndexOf('.');
      const section = name.slice(0, Math.max(dot, 0));
      const place = { path: COMMAND_LINE, line: 0 };
      if (section === '') this.#problem(place, `${name}: is not section.key`);
      else if (this.#checkSection(section, place)) this.#put(section, name.slice(dot + 1), value, false, place, new Map());
    }
  }

  /** Names of the handlers that have a section, with where it first stands. */
  get handlers(): ReadonlyMap<string, Place> {
    return this.#handlers;
  }

  placeOf(section: string, key: string): Place | undefined {
    return this.#settings.get(`${section}.${key}`)?.place;
  }

  /** The value set for a key; `undefined` when none is, or a bad one, which is then a problem. */
  read<T>(section: string, key: string, type: ValueType<T>): T | undefined {
    const setting = this.#settings.get(`${section}.${key}`);
    if (setting === undefined) return undefined;
    try {
      return type.parse(setting.items);
    } catch (err) {
      if (!(err instanceof BadValue)) throw err;
      this.refuse(section, key, err.message, setting.place);
      return undefined;
    }
  }

  /** Notes a problem of a key's value. */
  refuse(section: string, key: string, why: string, place = this.placeOf(section, key)): void {
    this.#problem(place ?? { path: 'defaults', line: 0 }, `[${section}] ${key}: ${why}`);
  }

  /** @throws {CriError} `invalidArgument` with one line for each problem, in the order of the files. */
  throwProblems(): void {
    if (this.#problems.length === 0) return;
    const rank = ({ path }: Place): number => (this.#order.includes(path) ? this.#order.indexOf(path) : this.#order.length);
    const sorted = this.#problems.toSorted((a, b) => rank(a.place) - rank(b.place) || a.place.line - b.place.line);
    throw new CriError('invalidArgument', [...new Set(sorted.map(({ place, text }) => `${formatPlace(place)}: ${text}`))].join('\n'));
  }

  #readFile({ path, text }: ConfigText): void {
    const { sections, entries, broken } = scanIni(text);
    const seen = new Map<string, number>();
    const known = new Set<string>();
    for (const { line, why } of broken) this.#problem({ path, line }, why);
    for (const { name, line } of sections) if (this.#checkSection(name, { path, line })) known.add(name);
    for (const { section, key, value, append, line } of entries) {
      if (known.has(section)) this.#put(section, key, value, append, { path, line }, seen);
    }
  }

  #checkSection(name: string, place: Place): boolean {
    if (name in keys) return true;
    if (name.startsWith(HANDLER_SECTION)) {
      const handler = name.slice(HANDLER_SECTION.length);
      if (!HANDLER_NAME.test(handler)) {
        this.#problem(place, `[${name}]: ${quote(handler)} is not a handler name (lower-case letters, digits and dashes)`);
        return false;
      }
      if (!this.#handlers.has(handler)) this.#handlers.set(handler, place);
      return true;
    }
    const near = nearest(name.replace(/^crio\.?/, ''), [...Object.keys(keys), `${HANDLER_SECTION}NAME`]);
    this.#problem(place, `[${name}]: unknown section${near === undefined ? '' : `; did you mean [${near}]?`}`);
    return false;
  }

  /** `seen` has the lines of this file that set a key, to find one that is set twice. */
  #put(section: string, key: string, value: string, append: boolean, place: Place, seen: Map<string, number>): void {
    const type = typesOf(section)[key];
    if (type === undefined) {
      this.#problem(place, `[${section}] ${key}: unknown key${hint(section, key)}`);
      return;
    }
    const name = `${section}.${key}`;
    const before = seen.get(name);
    seen.set(name, place.line);
    if (append && !type.list) this.refuse(section, key, 'is not a list: write it without []', place);
    else if (!append && before !== undefined) this.refuse(section, key, `is set twice, first in line ${before}`, place);
    else if (append) this.#settings.set(name, { items: [...(before === undefined ? [] : (this.#settings.get(name)?.items ?? [])), value], place });
    else this.#settings.set(name, { items: type.list ? splitList(value) : [value], place });
  }

  #problem(place: Place, text: string): void {
    this.#problems.push({ place, text });
  }
}

const splitList = (value: string): string[] =>
  value
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');

function typesOf(section: string): Readonly<Record<string, { readonly list: boolean }>> {
  const table = section.startsWith(HANDLER_SECTION) ? handlerKeys(section) : keys[section as keyof typeof keys];
  return Object.fromEntries(Object.entries(table).map(([key, { type }]) => [key, type]));
}

/** What may have been meant by an unknown key: one of another section, or one that is spelt nearly so. */
function hint(section: string, key: string): string {
  const home = Object.entries(keys).find(([, table]) => key in table)?.[0];
  if (home !== undefined) return `; it belongs in [${home}]`;
  const near = nearest(key, Object.keys(typesOf(section)));
  if (near !== undefined) return `; did you mean ${near}?`;
  for (const [other, table] of Object.entries(keys)) {
    const found = nearest(key, Object.keys(table));
    if (found !== undefined) return `; did you mean ${found} in [${other}]?`;
  }
  return '';
}

/** The candidate that takes the fewest edits, when they are few for its length. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let fewest = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const edits = distance(word.toLowerCase(), candidate.toLowerCase());
    if (edits < fewest && edits <= Math.max(1, Math.floor(candidate.length / 4))) {
      best = candidate;
      fewest = edits;
    }
  }
  return best;
}

/** Edits between two words, where swapping two neighbours is one edit (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: readonly number[] = [];
  let row: readonly number[] = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const edits = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + same);
      next.push(swapped ? Math.min(edits, (before[j - 2] ?? 0) + 1) : edits);
    }
    before = row;
    row = next;
  }
  return row[b.length] ?? 0;
}
