import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '#base/exec.ts';
import { makeImage, writeLayout } from '../fixtures/storage/image.ts';
import type { TestEntry } from '../fixtures/storage/tar.ts';
import { berthCommand, type Daemon } from './daemon.ts';

const BUSYBOX = '/bin/busybox'; // Debian's is static
const APPLETS = ['sh', 'cat', 'echo', 'env', 'grep', 'id', 'ls', 'pwd', 'readlink', 'sleep', 'stat', 'test', 'touch', 'tr'];

/** A shell and what tests call in it. */
const SHELL: readonly TestEntry[] = [
  { name: 'bin/', mode: 0o755 },
  { name: 'bin/busybox', content: readFileSync(BUSYBOX), mode: 0o755 },
  ...APPLETS.map((name) => ({ name: `bin/${name}`, type: '2', link: 'busybox' })),
];

/** Loads an image of these files, and of busybox, into the store of a daemon, under `name`. `config` is as in an image's own. */
export async function loadOwnImage(
  { directory, configFile }: Daemon,
  { name, entries, config = {} }: { readonly name: string; readonly entries: readonly TestEntry[]; readonly config?: Record<string, unknown> },
): Promise<void> {
  const layout = mkdtempSync(join(directory, 'image-'));
  try {
    mkdirSync(join(layout, 'blobs/sha256'), { recursive: true });
    await writeLayout(layout, [{ image: makeImage([{ entries: SHELL }, { entries }], config) }]);
    const [file, ...args] = berthCommand();
    await run(file, [...args, 'image', 'load', layout, '--name', name, '--config', configFile], { signal: AbortSignal.timeout(60_000) });
  } finally {
    rmSync(layout, { recursive: true, force: true });
  }
}
