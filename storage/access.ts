import { lstatSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DirectoryWatch } from '#base/directory-watch.ts';
import { CriError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { type Credentials, callCredentials, loadAuthFile, type RegistryAuth } from './auth.ts';
import type { Target } from './jobs.ts';
import { loadPolicy, type Policy } from './policy.ts';
import { formatReference, type ImageReference, parseReference } from './reference.ts';
import { RegistriesConf, type ShortNameMode } from './registries-conf.ts';
import { loadRegistriesConf } from './registries-file.ts';

/** The node's files about registries. All but `registriesConf` are read at each pull; an empty path stands for none. */
export interface AccessFiles {
  /** `registries.conf`; its drop-ins lie in `<path>.d`. May be missing. */
  readonly registriesConf: string;
  /** An `auth.json` for pulls that bring no credentials. */
  readonly globalAuthFile: string;
  /** The image of the pause process, and an `auth.json` that goes before the other one for it. */
  readonly pauseImage?: string;
  readonly pauseImageAuthFile?: string;
  /** Goes before the mode in registries.conf. */
  readonly shortNameMode?: ShortNameMode | undefined;
  /** A `policy.json` that must be there; without it the system's, which need not. */
  readonly signaturePolicy?: string;
  /** Directory of `<namespace>.json`, each in place of the policy for the pods of its namespace. */
  readonly signaturePolicyDir?: string;
}

export const SYSTEM_POLICY = '/etc/containers/policy.json';

/** A namespace is a DNS label (RFC 1123), so that it is the name of a file in the directory and nothing else. */
const NAMESPACE = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/**
 * From where images may come, what to show there, and what they must show: the node's files, as they are now.
 * A registries.conf that cannot be read is logged, and the last good one stays in force; without one no image is pulled.
 */
export class RegistryAccess implements Disposable {
  readonly #log: Log;
  #files: AccessFiles;
  #conf: RegistriesConf = RegistriesConf.empty();
  /** The state of the files that was looked at last, and what came of it. */
  #seen: string | undefined;
  #failure: unknown;
  #hasConf = false;
  #reading: Promise<void> = Promise.resolve();
  #watch: DirectoryWatch | undefined;

  private constructor(files: AccessFiles, log: Log) {
    this.#files = files;
    this.#log = log;
  }

  /** Reads registries.conf and keeps an eye on it. */
  static async open(files: AccessFiles, log: Log): Promise<RegistryAccess> {
    const access = new RegistryAccess(files, log);
    access.#watchFiles();
    await access.refresh();
    await access.#tellPolicy();
    return access;
  }

  [Symbol.dispose](): void {
    this.#watch?.[Symbol.dispose]();
  }

  /** registries.conf as it was read last: for what cannot wait. */
  get conf(): RegistriesConf {
    return this.#conf;
  }

  /**
   * The names to pull a reference by, see `RegistriesConf.resolve`.
   * @throws {CriError} `failedPrecondition` also when registries.conf has never been readable.
   */
  async resolve(reference: ImageReference): Promise<ImageReference[]> {
    await this.refresh();
    if (!this.#hasConf) throw new CriError('failedPrecondition', 'registries.conf cannot be read, so no image is pulled', { cause: this.#failure });
    return this.#conf.resolve(reference, this.#files.shortNameMode);
  }

  /**
   * Where to fetch from, and what to show there. Credentials of the call are for the registry in the reference, wherever
   * its location is; a mirror is somebody else, and gets what the node's own files have for it.
   * @throws {CriError} `failedPrecondition` for a blocked registry or an auth file that cannot be read.
   */
  async targets(reference: ImageReference, auth: RegistryAuth | undefined): Promise<Target[]> {
    const find = await this.#fileCredentials(reference);
    const given = callCredentials(auth, reference.registry);
    return this.#conf.endpoints(reference).map((endpoint) => {
      if (!endpoint.mirror && given.kind !== 'none') return { ...endpoint, credentials: given };
      const atEndpoint = find(endpoint.host, endpoint.repository);
      const isOwn = endpoint.mirror || atEndpoint.kind !== 'none';
      return { ...endpoint, credentials: isOwn ? atEndpoint : find(reference.registry, reference.repository) };
    });
  }

  /** The file of the policy for pods of this namespace; empty when it is the system's. Pulls under different ones are different. */
  policyPath(namespace: string): string {
    const { signaturePolicy = '', signaturePolicyDir = '' } = this.#files;
    if (signaturePolicyDir === '' || !NAMESPACE.test(namespace)) return signaturePolicy;
    const own = join(signaturePolicyDir, `${namespace}.json`);
    return isThere(own) ? own : signaturePolicy;
  }

  /** @throws {CriError} see `loadPolicy`. */
  policy(path: string): Promise<Policy> {
    return path === '' ? loadPolicy(SYSTEM_POLICY, { optional: true }) : loadPolicy(path, { optional: false });
  }

  /**
   * Makes ready to go by other files. Nothing has changed until the returned function is called, which cannot fail.
   * @throws {CriError} when they cannot be read: all of them are tried.
   */
  async prepare(files: AccessFiles): Promise<() => void> {
    const next = new RegistryAccess(files, this.#log);
    const seen = await stateOf(files.registriesConf); // before the content: what changes in between is read again
    const conf = await loadRegistriesConf(files.registriesConf);
    await Promise.all([loadAuthFile(files.globalAuthFile), loadAuthFile(files.pauseImageAuthFile ?? ''), next.policy(files.signaturePolicy ?? '')]);
    return () => {
      this.#files = files;
      this.#take(conf, seen);
      this.#watchFiles();
    };
  }

  /** Reads registries.conf again where it has changed. Never rejects: a failure is logged, once. */
  refresh(): Promise<void> {
    this.#reading = this.#reading.then(() => this.#refresh());
    return this.#reading;
  }

  async #refresh(): Promise<void> {
    const path = this.#files.registriesConf;
    const seen = await stateOf(path);
    if (seen === this.#seen) return;
    const isFirst = this.#seen === undefined;
    this.#seen = seen;
    try {
      this.#take(await loadRegistriesConf(path), seen);
      if (!isFirst) this.#log.info({ path }, 'Read changed registries.conf');
    } catch (err) {
      this.#failure = err;
      this.#log.warn({ err, path }, this.#hasConf ? 'Could not read changed registries.conf and keeps the one before' : 'Could not read registries.conf');
    }
  }

  #take(conf: RegistriesConf, seen: string): void {
    this.#conf = conf;
    this.#seen = seen;
    this.#hasConf = true;
    for (const reason of conf.ignored) this.#log.warn({ reason }, 'Ignored key in registries.conf');
  }

  #watchFiles(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    const path = this.#files.registriesConf;
    if (path === '') return;
    const watch = new DirectoryWatch([dirname(path), `${path}.d`], {
      log: this.#log,
      onChange: () => {
        watch.arm();
        void this.refresh();
      },
    });
    this.#watch = watch;
  }

  async #tellPolicy(): Promise<void> {
    try {
      const { path } = await this.policy(this.#files.signaturePolicy ?? '');
      if (path === '') this.#log.info({ path: SYSTEM_POLICY }, 'Found no signature policy and accepts any image');
    } catch (err) {
      this.#log.warn({ err }, 'Could not read signature policy and refuses all pulls');
    }
  }

  /** What the files have for a place: for the pause image its own file goes first. */
  async #fileCredentials(reference: ImageReference): Promise<(host: string, repository: string) => Credentials> {
    const { globalAuthFile, pauseImage = '', pauseImageAuthFile = '' } = this.#files;
    const isPause = pauseImage !== '' && pauseImageAuthFile !== '' && this.#means(pauseImage, reference);
    const files = await Promise.all([...(isPause ? [pauseImageAuthFile] : []), globalAuthFile].map(loadAuthFile));
    return (host, repository) => files.map((file) => file.find(host, repository)).find(({ kind }) => kind !== 'none') ?? { kind: 'none' };
  }

  #means(name: string, reference: ImageReference): boolean {
    try {
      return this.#conf.candidates(parseReference(name)).some((each) => formatReference(each) === formatReference(reference));
    } catch (err) {
      if (err instanceof CriError) return false; // no name of any image
      throw err;
    }
  }
}

/** A link to nowhere, or what cannot be looked at, is there: it must not give way to a policy that may allow more. */
function isThere(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return true;
  }
}

/** Changes whenever registries.conf or one of its drop-ins does. */
async function stateOf(path: string): Promise<string> {
  if (path === '') return '';
  // Why it cannot be read is a state as well, which the reader then tells.
  const names = await readdir(`${path}.d`).catch((err: NodeJS.ErrnoException) => [`${err.code}.conf`]);
  const files = [path, ...names.filter((name) => name.endsWith('.conf')).map((name) => join(`${path}.d`, name))];
  const states = await Promise.all(
    files.map((file) =>
      stat(file, { bigint: true }).then(
        ({ ino, size, mtimeNs, ctimeNs }) => `${file} ${ino} ${size} ${mtimeNs} ${ctimeNs}`,
        () => `${file} gone`,
      ),
    ),
  );
  return states.sort().join('\n');
}
