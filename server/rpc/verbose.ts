import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';

/** The OCI spec in a bundle, for the verbose answers that `crictl inspect` shows; null once the bundle is gone. */
export async function bundleSpec(bundle: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8'));
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return null;
    throw err;
  }
}
