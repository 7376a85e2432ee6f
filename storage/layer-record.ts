import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ListSeal } from './entry-list.ts';

export interface LayerSize {
  /** Content on disk, in bytes. */
  readonly bytes: number;
  readonly inodes: number;
}

/** What is kept of a layer beside its tree. */
export interface LayerRecord extends LayerSize {
  /** Of the list of all that is in it, see `EntryLine`. */
  readonly seal: ListSeal;
}

/** Names of the files beside a layer's `diff/`: its record, and the list of what was unpacked. */
export const RECORD = 'layer.json';
export const LIST = 'entries';

/** `undefined` for one that is missing or cannot be used. */
export async function readRecord(path: string): Promise<LayerRecord | undefined> {
  try {
    const { bytes, inodes, seal } = JSON.parse(await readFile(join(path, RECORD), 'utf8')) as Partial<LayerRecord>;
    if (![bytes, inodes, seal?.bytes, seal?.crc].every((value) => typeof value === 'number')) return undefined;
    return { bytes, inodes, seal } as LayerRecord;
  } catch {
    return undefined;
  }
}
