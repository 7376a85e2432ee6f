import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describeError, isErrno } from '#base/errors.ts';
import { JobError } from './jobs.ts';

/** Where tools of this family look for the certificates of a registry, the first directory first. Source: containers-certs.d(5). */
export const CERTIFICATE_DIRECTORIES: readonly string[] = ['/etc/containers/certs.d', '/etc/docker/certs.d'];

/** What the node has for one host. */
export interface HostCertificates {
  /** PEM texts of authorities that are trusted beside the system's. */
  readonly ca: readonly string[];
  /** What to show the host. */
  readonly client: readonly { readonly cert: string; readonly key: string }[];
  /** Changes with the files. */
  readonly version: string;
}

const NONE: HostCertificates = { ca: [], client: [], version: '' };

/**
 * Reads `<directory>/<host>`, of the first directory that has it: `*.crt` are authorities, `NAME.cert` with `NAME.key` show
 * who we are. `host` has its port where the reference has it.
 * @throws {JobError} `other` naming the file that cannot be read or misses its other half.
 */
export function loadHostCertificates(directories: readonly string[], host: string): HostCertificates {
  for (const parent of directories) {
    const directory = join(parent, host);
    const names = namesIn(directory);
    if (names !== undefined) return readAll(directory, names);
  }
  return NONE;
}

function namesIn(directory: string): string[] | undefined {
  try {
    return readdirSync(directory).sort();
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return undefined;
    throw new JobError('other', `certificates in ${directory} cannot be read: ${describeError(err)}`);
  }
}

function readAll(directory: string, names: readonly string[]): HostCertificates {
  const read = (name: string): string => {
    try {
      return readFileSync(join(directory, name), 'utf8');
    } catch (err) {
      throw new JobError('other', `certificate ${join(directory, name)} cannot be read: ${describeError(err)}`);
    }
  };
  const ofKind = (end: string): string[] => names.filter((name) => name.endsWith(end) && name !== end);
  const client = ofKind('.cert').map((name) => {
    const keyName = name.replace(/\.cert$/, '.key');
    if (!names.includes(keyName)) throw new JobError('other', `client certificate ${join(directory, name)} has no ${keyName} beside it`);
    return { cert: read(name), key: read(keyName) };
  });
  for (const name of ofKind('.key')) {
    if (!names.includes(name.replace(/\.key$/, '.cert'))) throw new JobError('other', `key ${join(directory, name)} has no certificate (.cert) beside it`);
  }
  const version = names.map((name) => {
    const { mtimeMs, size } = statSync(join(directory, name), { throwIfNoEntry: false }) ?? { mtimeMs: 0, size: 0 };
    return `${name} ${mtimeMs} ${size}`;
  });
  return { ca: ofKind('.crt').map(read), client, version: `${directory}\n${version.join('\n')}` };
}
