import { readdir, rm, stat } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { isObject, type NetworkConf } from './conf.ts';

/** Where host-local keeps its leases unless the configuration says otherwise. Source: its README. */
const DEFAULT_DATA_DIR = '/var/lib/cni/networks';

/** host-local fills a lease's file within milliseconds after it has made it. */
const AGE_MS = 60_000;

/**
 * Removes leases of host-local that say of no pod: files without a byte, as they are when the plugin was killed between
 * making and filling one, or after a power cut. No DEL finds them, and their addresses would be lost for good.
 */
export async function removeEmptyLeases(conf: NetworkConf, log: Log, ageMs = AGE_MS): Promise<void> {
  for (const { ipam } of conf.plugins) {
    if (!isObject(ipam) || ipam.type !== 'host-local') continue;
    const directory = join(typeof ipam.dataDir === 'string' && ipam.dataDir !== '' ? ipam.dataDir : DEFAULT_DATA_DIR, conf.name);
    for (const name of await leases(directory)) {
      const path = join(directory, name);
      try {
        const { size, mtimeMs } = await stat(path);
        if (size > 0 || Date.now() - mtimeMs < ageMs) continue;
        await rm(path);
        log.warn({ network: conf.name, path }, 'Removed empty lease of an address');
      } catch (err) {
        if (!isErrno(err, 'ENOENT')) throw err;
      }
    }
  }
}

async function leases(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).filter((name) => isIP(name) !== 0);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return [];
    throw err;
  }
}
