import { closeSync, constants, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { syncDirectory } from '#base/atomic-file.ts';
import { CriError } from '#base/errors.ts';
import { tryLock } from '#base/sys.ts';

/** A root directory that this process alone works on, until it lets go of it or dies. */
export interface HeldRoot extends AsyncDisposable {
  /** The last daemon here let go of it at its end; true too when there was none. */
  readonly stoppedCleanly: boolean;
}

/**
 * Makes sure that one daemon alone works on a root directory, by a lock on the file `lock` in it, which the kernel frees
 * when its owner dies, however that happens. The file has the owner's pid, and is empty after a clean stop.
 * @throws {CriError} failedPrecondition when another daemon has it.
 */
export async function holdRoot(root: string): Promise<HeldRoot> {
  const path = join(root, 'lock');
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    const isOurs = tryLock(fd);
    const owner = readFileSync(path, 'utf8').trim();
    if (!isOurs) throw new CriError('failedPrecondition', `root ${root}: another berth daemon works on it${owner === '' ? '' : `, with the pid ${owner}`}`);
    note(fd, `${process.pid}\n`);
    await syncDirectory(root);
    return {
      stoppedCleanly: owner === '',
      async [Symbol.asyncDispose]() {
        note(fd, '');
        closeSync(fd);
      },
    };
  } catch (err) {
    closeSync(fd);
    throw err;
  }
}

/** For good: after a power cut it must still tell that nobody stopped cleanly. */
function note(fd: number, text: string): void {
  ftruncateSync(fd, 0);
  writeSync(fd, text, 0);
  fsyncSync(fd);
}
