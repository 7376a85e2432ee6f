import type { Stats } from 'node:fs';
import { JobError } from './jobs.ts';

/** Paths of a layer: relative, without a slash in front, each byte one character (latin1), since names need not be UTF-8. */

/** The path without empty and `.` parts. @throws {JobError} where it has a `..`: nobody writes such a layer in good faith. */
export function cleanPath(name: string): string {
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw new JobError('corrupt', `tar entry ${show(name)} has .. in its path`);
  return parts.join('/');
}

/** The directory that a path lies in; `''` for the root. */
export function parentOf(path: string): string {
  return path.slice(0, Math.max(path.lastIndexOf('/'), 0));
}

export function baseOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

export function below(directory: string, name: string): string {
  return directory === '' ? name : `${directory}/${name}`;
}

/** Where a path lies in the jail, for system calls. What is not ASCII goes to the kernel as the bytes it was. */
export function at(path: string): string | Buffer {
  return bytesOf(`/${path}`);
}

export function bytesOf(path: string): string | Buffer {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII is meant
  return /^[\x00-\x7f]*$/.test(path) ? path : Buffer.from(path, 'latin1');
}

/** For messages. */
export function show(path: string): string {
  return JSON.stringify(Buffer.from(path.slice(0, 200), 'latin1').toString());
}

/** Overlay's sign that a lower layer's file is gone. */
export function isWhiteout(stat: Stats): boolean {
  return stat.isCharacterDevice() && stat.rdev === 0;
}
