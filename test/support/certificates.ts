import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '#base/exec.ts';

/** Paths of a key and its certificate, PEM. */
export interface Pair {
  readonly key: string;
  readonly cert: string;
}

/** A certificate authority in a directory, made with openssl. */
export class Authority implements Pair {
  readonly key: string;
  readonly cert: string;
  readonly #directory: string;

  private constructor(directory: string, { key, cert }: Pair) {
    this.#directory = directory;
    this.key = key;
    this.cert = cert;
  }

  static async make(directory: string, name: string): Promise<Authority> {
    return new Authority(directory, await selfSigned(directory, name, ['-addext', 'basicConstraints=critical,CA:TRUE']));
  }

  /** A pair for a server at 127.0.0.1 and `localhost`, or for a client. */
  async issue(name: string): Promise<Pair> {
    const [key, request, cert, extensions] = ['key', 'csr', 'crt', 'ext'].map((end) => join(this.#directory, `${name}.${end}`)) as [
      string,
      string,
      string,
      string,
    ];
    writeFileSync(extensions, 'subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test\nextendedKeyUsage=serverAuth,clientAuth\n');
    await openssl(['req', ...NEW_KEY, '-keyout', key, '-out', request, '-subj', `/CN=${name}`]);
    await openssl([
      'x509',
      '-req',
      '-in',
      request,
      '-CA',
      this.cert,
      '-CAkey',
      this.key,
      '-CAcreateserial',
      '-days',
      '2',
      '-extfile',
      extensions,
      '-out',
      cert,
    ]);
    return { key, cert };
  }
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

/** A certificate that signs itself. */
export async function selfSigned(directory: string, name: string, more: readonly string[] = []): Promise<Pair> {
  const [key, cert] = [join(directory, `${name}.key`), join(directory, `${name}.crt`)];
  await openssl(['req', '-x509', ...NEW_KEY, '-keyout', key, '-out', cert, '-subj', `/CN=${name}`, '-days', '2', ...more]);
  return { key, cert };
}

async function openssl(args: readonly string[]): Promise<void> {
  await run('openssl', args, { signal: AbortSignal.timeout(60_000) });
}

/** Both texts, as servers of Node want them. */
export function readPair({ key, cert }: Pair): { key: string; cert: string } {
  return { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') };
}
