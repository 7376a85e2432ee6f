import { CriError, invalidField, quote } from '#base/errors.ts';
import type { KeyValue } from '../../proto/cri.ts';

/** What a process without a PATH gets; the list that Docker's images expect. */
const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface EnvironmentInput {
  /** `NAME=value`, of the daemon's configuration. */
  readonly defaults: readonly string[];
  /** `NAME=value`. */
  readonly image: readonly string[];
  readonly request: readonly KeyValue[];
  /** Empty sets none. */
  readonly hostname: string;
  readonly home: string;
  readonly tty: boolean;
  /** `NAME=value`, of the devices that the request names. */
  readonly devices?: readonly string[];
}

/** `NAME=value`, each name once: what comes later wins over defaults, image and request in this order. */
export function buildEnvironment({ defaults, image, request, hostname, home, tty, devices = [] }: EnvironmentInput): readonly string[] {
  const values = new Map<string, string>();
  const set = (entry: string): void => {
    const equals = entry.indexOf('=');
    // An image may list a name alone, which sets nothing.
    if (equals > 0) values.set(entry.slice(0, equals), entry);
  };
  set(DEFAULT_PATH);
  if (tty) set('TERM=xterm');
  if (hostname !== '') set(`HOSTNAME=${hostname}`);
  // The runtimes look HOME up as well, but only crun and runc do, and an exec has no other source for it.
  set(`HOME=${home}`);
  for (const entry of defaults) set(entry);
  for (const entry of image) set(entry);
  for (const { key, value } of request) set(`${key}=${decodeEnvValue(key, value)}`);
  for (const entry of devices) set(entry);
  return [...values.values()];
}

/** @throws {CriError} `invalidArgument` naming the variable, never its value: it may be a secret. */
export function validateEnvironment(envs: readonly KeyValue[]): void {
  for (const [index, { key, value }] of envs.entries()) {
    if (key === '' || /[=\0]/.test(key)) throw invalidField(`config.envs[${index}].key`, key, 'is no name of an environment variable');
    const text = decodeEnvValue(key, value);
    if (text.includes('\0')) throw new CriError('invalidArgument', `config.envs[${index}].value: the value of ${quote(key)} has a NUL in it`);
    // Whatever copies HOME into a line of /etc/passwd would copy a second line as well (CVE-2022-4318).
    if (key === 'HOME' && text.includes('\n')) throw invalidField(`config.envs[${index}].value`, text, 'is no home directory: it has more than one line');
  }
}

/** The CRI carries bytes, config.json only text. */
function decodeEnvValue(key: string, value: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(value);
  } catch {
    throw new CriError('invalidArgument', `config.envs: the value of ${quote(key)} is not UTF-8, which an OCI runtime cannot be given`);
  }
}
