import { lstat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CriError, isErrno, quote } from '#base/errors.ts';
import { makeDirectory } from '#base/make-directory.ts';
import { reopenLog as reopen } from '../../conmon/conmon.ts';
import type { Parts } from '../parts.ts';
import type { ContainerRecord } from './container.ts';

/**
 * The container's log file: `log_directory/log_path`, both checked before to be absolute and to stay inside. Empty where
 * the pod or the container has none.
 */
export function containerLogPath(logDirectory: string, logPath: string): string {
  return logDirectory === '' || logPath === '' ? '' : join(logDirectory, logPath);
}

/**
 * Makes the directories of a log file that are missing, and refuses symlinks below the pod's log directory: whoever
 * planted one would have the monitor write elsewhere as root.
 * @returns true when the file is not there yet, so that it is ours to remove if the creation fails.
 */
export async function prepareLogPath(logDirectory: string, path: string): Promise<boolean> {
  try {
    await makeDirectory(dirname(path));
    return await isFree(logDirectory, path);
  } catch (err) {
    if (!isErrno(err, 'ENAMETOOLONG', 'ELOOP', 'ENOTDIR', 'EEXIST')) throw err;
    throw new CriError('invalidArgument', `config.log_path: ${quote(path)} cannot be made: ${err.code}`, { cause: err });
  }
}

async function isFree(logDirectory: string, path: string): Promise<boolean> {
  for (let directory = dirname(path); directory.length > logDirectory.length; directory = dirname(directory)) {
    if (!(await lstat(directory)).isDirectory()) throw refused(directory);
  }
  try {
    if (!(await lstat(path)).isFile()) throw refused(path);
    return false;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return true;
    throw err;
  }
}

/** How long a monitor may take to have its new log file. */
const REOPEN_MS = 10_000;

/** Has the monitor of a running container open its log anew, after a rotation. @throws {CriError} failedPrecondition. */
export async function reopenLog(
  { paths, containers, sandboxes, locks }: Pick<Parts, 'paths' | 'containers' | 'sandboxes' | 'locks'>,
  record: ContainerRecord,
  signal: AbortSignal,
): Promise<void> {
  // Two at once would have the monitor truncate what the first one has opened.
  await using _lock = await locks.acquire(record.id, signal);
  const { id, sandboxId, state, logPath } = containers.get(record.id) ?? record;
  if (state.name !== 'running') throw new CriError('failedPrecondition', `container ${id} is ${state.name}: only a running container's log can be reopened`);
  if (logPath === '') throw new CriError('failedPrecondition', `container ${id} has no log file`);
  await checkPlain(sandboxes.get(sandboxId)?.config.log_directory ?? dirname(logPath), logPath);
  await reopen(paths.bundle(id), logPath, { signal, timeoutMs: REOPEN_MS });
}

/** Someone may have put a symlink into the place of a directory or of the log since the container was created. */
async function checkPlain(logDirectory: string, path: string): Promise<void> {
  try {
    await isFree(logDirectory, path);
  } catch (err) {
    if (err instanceof CriError) throw new CriError('failedPrecondition', `reopen log: ${err.message}`, { cause: err });
    if (!isErrno(err, 'ENOENT', 'ENOTDIR')) throw err; // a directory is missing: told below
  }
}

function refused(path: string): CriError {
  return new CriError('invalidArgument', `config.log_path: "${path}" is there and is neither a plain file nor below plain directories`);
}
