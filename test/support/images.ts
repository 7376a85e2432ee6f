import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '#base/exec.ts';
import { CACHE } from './tool.ts';

export const FIXTURES = join(import.meta.dirname, '../fixtures/conformance');

/** Name of an image with busybox and dash in it. */
export const BUSYBOX = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';

/** One that serves a page on port 80 and knows a stop signal. */
export const NGINX = 'registry.k8s.io/e2e-test-images/nginx:1.14-2';

/** One with a pause process in it. */
export const PAUSE = 'registry.k8s.io/pause:3.10';

/** The directory of the conformance images (see make.sh there), made when it is not there yet. */
export async function conformanceImages(): Promise<string> {
  const done = join(CACHE, 'images');
  await makeOnce(done, (directory) => run(join(FIXTURES, 'make.sh'), [directory], { signal: AbortSignal.timeout(120_000) }));
  return done;
}

/** Writes one conformance image as a file for `berth image load`. */
export async function writeArchive(path: string, image: string, format: 'docker-archive' | 'oci-archive'): Promise<void> {
  const layout = join(await conformanceImages(), 'layout');
  await run('skopeo', ['copy', '-q', '--insecure-policy', `oci:${layout}:${image}`, `${format}:${path}:${image}`], { signal: AbortSignal.timeout(60_000) });
}

/** Fills a directory aside and puts it in place when it is whole; another run may have been first. */
export async function makeOnce(directory: string, fill: (path: string) => Promise<unknown>): Promise<void> {
  if (existsSync(directory)) return;
  mkdirSync(CACHE, { recursive: true });
  const aside = mkdtempSync(`${directory}.`);
  try {
    await fill(aside);
    if (!existsSync(directory)) renameSync(aside, directory);
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}
