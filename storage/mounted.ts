import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type ChainId, hexOf } from './digest.ts';
import { escapeLowerDir } from './overlay.ts';

/** Layer directories are found by fewer characters of their names when mount options would not fit a page. */
export const SHORT_NAME_LENGTH = 10;

/**
 * Tells which layers of a store are below some overlay mount, by what the kernel knows: it is right whatever became of
 * the records, and after every restart. Source: proc(5), "/proc/[pid]/mountinfo"; kernel overlayfs, show_options.
 */
export async function mountedLayers(root: string): Promise<(chainId: ChainId) => boolean> {
  const lines = (await readFile('/proc/self/mountinfo', 'latin1')).split('\n').filter((line) => line.includes(' - overlay '));
  const text = unescapeOctal(lines.join('\n'));
  const names = new Set<string>();
  for (const [directory, length] of [
    ['layers', 64],
    ['l', SHORT_NAME_LENGTH],
  ] as const) {
    const start = `${Buffer.from(escapeLowerDir(join(root, directory))).toString('latin1')}/`;
    for (let at = text.indexOf(start); at >= 0; at = text.indexOf(start, at + 1)) names.add(text.slice(at + start.length, at + start.length + length));
  }
  return (chainId) => names.has(hexOf(chainId)) || names.has(hexOf(chainId).slice(0, SHORT_NAME_LENGTH));
}

/** The kernel writes blanks and the like as `\040`. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
