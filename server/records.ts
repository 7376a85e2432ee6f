import { lstat, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncDirectory, writeFileAtomic } from '#base/atomic-file.ts';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import type { ObjectId } from '#base/id.ts';

/** What every record has. */
export interface Identified {
  readonly id: ObjectId;
}

/** A record that could not be read back: the object's id, which is its directory's name, and why. */
export interface DamagedRecord {
  readonly id: string;
  readonly err: unknown;
}

const FORMAT = 1;

/**
 * The records of one kind of object: one `record.json` in a directory per object, with the working copy in memory.
 *
 * Invariants: memory and disk change in the same order for one id, since its changes queue; readers never wait; a
 * record is written before the resource it names and goes after it, together with the whole directory, in one rename.
 */
export class Records<R extends Identified> {
  readonly #directory: string;
  readonly #trash: string;
  readonly #items = new Map<string, R>();
  readonly #tails = new Map<string, Promise<unknown>>();
  #trashed = 0;

  private constructor(directory: string, trash: string) {
    this.#directory = directory;
    this.#trash = trash;
  }

  /** Reads all records below `directory`. Damaged ones are left where they are and told. */
  static async open<R extends Identified>(directory: string, trash: string): Promise<{ records: Records<R>; damaged: readonly DamagedRecord[] }> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await mkdir(trash, { recursive: true, mode: 0o700 });
    const records = new Records<R>(directory, trash);
    const damaged: DamagedRecord[] = [];
    const names = await readdir(directory);
    await Promise.all(
      names.map(async (id) => {
        try {
          records.#items.set(id, parseRecord<R>(id, await readFile(join(directory, id, 'record.json'), 'utf8')));
        } catch (err) {
          damaged.push({ id, err });
        }
      }),
    );
    return { records, damaged };
  }

  get(id: string): R | undefined {
    return this.#items.get(id);
  }

  /** All records, in no particular order. */
  values(): IterableIterator<R> {
    return this.#items.values();
  }

  get size(): number {
    return this.#items.size;
  }

  /** The object's directory; there as long as its record is. */
  directory(id: string): string {
    return join(this.#directory, id);
  }

  /** Makes the object's directory and writes its first record. */
  async insert(record: R): Promise<void> {
    await this.#queue(record.id, async () => {
      await mkdir(this.directory(record.id), { mode: 0o700 });
      try {
        await this.#write(record, false);
      } catch (err) {
        await rm(this.directory(record.id), { recursive: true, force: true });
        throw err;
      }
      this.#items.set(record.id, record);
    });
  }

  /**
   * Replaces a record: saved to disk, then swapped in memory. `undefined` when it is gone, or as soon as `change` returns
   * `undefined` (nothing changes then). A power cut in the milliseconds after an update that is not `lasting` may undo
   * or damage it: right for what the reboot ends anyway.
   */
  update(id: string, change: (old: R) => R | undefined, { lasting = false } = {}): Promise<R | undefined> {
    return this.#queue(id, async () => {
      const old = this.#items.get(id);
      const next = old === undefined ? undefined : change(old);
      if (old === undefined || next === undefined || next === old) return next;
      await this.#write(next, lasting);
      // What was remembered while it was written must not be lost.
      const now = this.#items.get(id);
      this.#items.set(id, now === undefined || now === old ? next : (change(now) ?? now));
      return this.#items.get(id);
    });
  }

  /** Replaces a record in memory alone: for what a restart finds out by itself. */
  remember(id: string, change: (old: R) => R): void {
    const old = this.#items.get(id);
    if (old !== undefined) this.#items.set(id, change(old));
  }

  /** Takes the record and its whole directory away; deleting what was in it happens later, in the trash. */
  async remove(id: string): Promise<void> {
    await this.#queue(id, async () => {
      await discard(this.directory(id), join(this.#trash, `${id}.${process.pid}.${this.#trashed++}`));
      this.#items.delete(id);
    });
  }

  async #write(record: R, lasting: boolean): Promise<void> {
    await writeFileAtomic(join(this.directory(record.id), 'record.json'), JSON.stringify({ format: FORMAT, record }), { lasting });
  }

  #queue<T>(id: string, work: () => Promise<T>): Promise<T> {
    const result = (this.#tails.get(id) ?? Promise.resolve()).then(work);
    const tail = result.catch(() => {});
    this.#tails.set(id, tail);
    void tail.then(() => {
      if (this.#tails.get(id) === tail) this.#tails.delete(id);
    });
    return result;
  }
}

/** Moves a directory to the trash; one that is gone counts as moved. */
export async function discard(directory: string, trashed: string): Promise<void> {
  try {
    await rename(directory, trashed);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
    // ENOENT speaks of either side.
    if (await isGone(directory)) return;
    await mkdir(dirname(trashed), { recursive: true, mode: 0o700 });
    await rename(directory, trashed);
  }
  await syncDirectory(dirname(directory));
}

async function isGone(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return false;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return true;
    throw err;
  }
}

function parseRecord<R extends Identified>(id: string, text: string): R {
  const { format, record } = JSON.parse(text) as { format: number; record: R };
  if (format !== FORMAT) throw new Error(`record of ${id}: format ${format} is not known to this version`);
  if (record.id !== id) throw new Error(`record of ${id}: holds the id ${record.id}`);
  return record;
}

/**
 * Deletes what was moved to the trash, by a process of its own: removing trees file by file would keep ours busy. It stays
 * on the trash's own file system, whatever may still be mounted in there.
 */
export async function emptyTrash(trash: string, signal: AbortSignal): Promise<void> {
  const names = await readdir(trash);
  if (names.length > 0) await run('rm', ['-rf', '--one-file-system', '--', ...names], { cwd: trash, signal, hot: true });
}
