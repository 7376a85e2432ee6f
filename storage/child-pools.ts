import { existsSync } from 'node:fs';
import { CERTIFICATE_DIRECTORIES } from './certs.ts';
import { ChildPool } from './child-pool.ts';

/** One for each core of a small node. */
const UNPACKERS = 2;
/** How many layers the downloader takes at once, whatever the settings say. */
const MAX_DOWNLOADS = 64;
/** Manifests and configs at once, beside the layers: they do not wait for those. */
const SMALL_FETCHES = 16;
const CHILD_IDLE_MS = 10_000;
/** Certificates of the node's own authorities, where distributions keep them. Node has only Mozilla's built in. */
const CERTIFICATE_FILES = ['/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt'];

/** The child processes of a store, by what they do. */
export interface ChildPools extends AsyncDisposable {
  readonly fetchers: ChildPool;
  readonly unpackers: ChildPool;
  readonly checkers: ChildPool;
}

/** No process runs before there is work. `certificates` are directories with one for each registry's host. */
export function openChildPools(options: {
  readonly proxyEnv: Readonly<Record<string, string>> | undefined;
  readonly certificates: readonly string[] | undefined;
}): ChildPools {
  const unpacking = { entry: 'unpack-child', jobsEach: 1, cancelBy: 'kill', idleMs: CHILD_IDLE_MS } as const;
  const unpackers = new ChildPool({ ...unpacking, processes: UNPACKERS });
  const checkers = new ChildPool({ ...unpacking, processes: 1 });
  const authorities = CERTIFICATE_FILES.find((path) => existsSync(path));
  const env = {
    ...(authorities === undefined ? {} : { NODE_EXTRA_CA_CERTS: authorities }),
    ...options.proxyEnv,
    BERTH_CERTIFICATES: JSON.stringify(options.certificates ?? CERTIFICATE_DIRECTORIES),
  };
  const fetchers = new ChildPool({
    entry: 'fetch-child',
    processes: 1,
    jobsEach: MAX_DOWNLOADS + SMALL_FETCHES,
    cancelBy: 'message',
    idleMs: CHILD_IDLE_MS,
    env,
  });
  return {
    fetchers,
    unpackers,
    checkers,
    [Symbol.asyncDispose]: async () => {
      for (const pool of [fetchers, unpackers, checkers]) await pool[Symbol.asyncDispose]();
    },
  };
}
