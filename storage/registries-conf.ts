import { CriError, quote } from '#base/errors.ts';
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

export interface Mirror extends Location {
  readonly use: 'all' | 'digest-only' | 'tag-only';
}

export interface Registry extends Location {
  readonly prefix: string;
  readonly blocked: boolean;
  readonly mirrors: readonly Mirror[];
}

/**
 * What a short name means that has no alias while there are several search registries. Nobody can be asked here, so
 * `enforcing` refuses it; the others try the registries in turn. Source: containers-registries.conf(5), "short-name-mode".
 */
export type ShortNameMode = 'enforcing' | 'permissive' | 'disabled';

export const SHORT_NAME_MODES: readonly ShortNameMode[] = ['enforcing', 'permissive', 'disabled'];

export interface RegistriesContent {
  readonly registries: readonly Registry[];
  readonly search: readonly string[];
  /** Short name to full name. */
  readonly aliases: ReadonlyMap<string, string>;
  readonly mode: ShortNameMode | undefined;
  /** Keys that ask for what Berth does not do, each with its file. */
  readonly ignored: readonly string[];
}

/** Files of containers-registries.conf(5), version 2, already merged. Keys that Berth does not know are left to other tools. */
export class RegistriesConf {
  readonly #registries: readonly Registry[];
  readonly #search: readonly string[];
  readonly #aliases: ReadonlyMap<string, string>;
  readonly #mode: ShortNameMode | undefined;
  readonly ignored: readonly string[];

  constructor({ registries, search, aliases, mode, ignored }: RegistriesContent) {
    this.#registries = registries;
    this.#search = search;
    this.#aliases = aliases;
    this.#mode = mode;
    this.ignored = ignored;
  }

  /** What applies where there is no file. */
  static empty(): RegistriesConf {
    return new RegistriesConf({ registries: [], search: [], aliases: new Map(), mode: undefined, ignored: [] });
  }

  /**
   * The names to pull a reference by: those of `candidates`, unless the mode forbids to choose between them.
   * `mode` goes before the file's; where neither says anything names are enforced, as CRI-O does.
   * @throws {CriError} `failedPrecondition` for a short name that may mean several images.
   */
  resolve(reference: ImageReference, mode?: ShortNameMode): ImageReference[] {
    const names = this.candidates(reference);
    if (names.length <= 1 || (mode ?? this.#mode ?? 'enforcing') !== 'enforcing') return names;
    throw new CriError(
      'failedPrecondition',
      `image name ${quote(shortName(reference))} may mean ${names.map(repositoryName).join(' or ')}, and short-name-mode is enforcing: ` +
        'name the registry, or make it an alias in registries.conf',
    );
  }

  /** The names a reference may mean, best first: itself, or for a short one its alias or the search registries. */
  candidates(reference: ImageReference): ImageReference[] {
    if (reference.qualified) return [reference];
    const alias = this.#aliases.get(shortName(reference));
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
      if (covers(registry.prefix, name) && (best === undefined || specificity(registry) > specificity(best))) best = registry;
    }
    return best;
  }
}

function shortName(reference: ImageReference): string {
  return repositoryName(reference).replace(/^docker\.io\/(library\/)?/, '');
}

/** The longest prefix counts; the star of a wildcard is no length. */
function specificity({ prefix }: Registry): number {
  return prefix.replace('*', '').length;
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
