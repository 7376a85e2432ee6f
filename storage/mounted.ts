import { readFile } from 'node:fs/promises';
import { type ChainId, hexOf } from './digest.ts';
import { escapeLowerDir } from './overlay.ts';

/** Layer directories are found by fewer characters of their names when mount options would not fit a page. */
export const SHORT_NAME_LENGTH = 10;

/** Below the store's root, or below an idmapped copy of it. */
const LAYER = /^(?:mapped\/[^/:,]+\/)?(?:layers|l)\/([0-9a-f]{10,64})/;

/** As `mountOverlayRelative` names them: whose store they are of cannot be told. */
const RELATIVE = /(?:lowerdir=|:)([0-9a-f]{10})(?=[:,])/g;

/**
 * Tells which layers of a store are below some overlay mount, by what the kernel knows: it is right whatever became of
 * the records, and after every restart. A layer whose name begins like that of a mounted one counts too. Source: proc(5), "/proc/[pid]/mountinfo"; kernel overlayfs, show_options.
 */
export async function mountedLayers(root: string): Promise<(chainId: ChainId) => boolean> {
  const lines = (await readFile('/proc/self/mountinfo', 'latin1')).split('\n').filter((line) => line.includes(' - overlay '));
  const start = `${Buffer.from(escapeLowerDir(root)).toString('latin1')}/`;
  const text = unescapeOctal(lines.join('\n'));
  const names = new Set<string>(Array.from(text.matchAll(RELATIVE), ([, name = '']) => name));
  for (const path of text.split(start).slice(1)) {
    const name = LAYER.exec(path)?.[1];
    if (name !== undefined) names.add(name.slice(0, SHORT_NAME_LENGTH));
  }
  return (chainId) => names.has(hexOf(chainId).slice(0, SHORT_NAME_LENGTH));
}

/** The kernel writes blanks and the like as `\040`. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
