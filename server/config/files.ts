import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { CriError, isErrno } from '#base/errors.ts';
import type { LoadOptions } from '../config.ts';
import type { ConfigText } from './settings.ts';

const DEFAULT_PATH = '/etc/berth/berth.conf';

/**
 * The configuration file, if there is one, and its drop-ins, in the order in which they win.
 * @throws {CriError} `invalidArgument` naming the file or directory that cannot be read.
 */
export function readFiles(options: LoadOptions): ConfigText[] {
  const { path = DEFAULT_PATH, dropInDir = `${path}.d` } = options;
  const read = (file: string): ConfigText => {
    try {
      return { path: file, text: readFileSync(file, 'utf8') };
    } catch (err) {
      throw new CriError('invalidArgument', `${file}: configuration cannot be read`, { cause: err });
    }
  };
  const files: ConfigText[] = [];
  if (options.path !== undefined || statSync(path, { throwIfNoEntry: false }) !== undefined) files.push(read(path));
  let names: string[] = [];
  try {
    names = readdirSync(dropInDir);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw new CriError('invalidArgument', `${dropInDir}: configuration cannot be read`, { cause: err });
  }
  // Bytewise, as `LC_ALL=C ls` shows them: the same order on every machine.
  for (const name of names.filter((file) => file.endsWith('.conf') && !file.startsWith('.')).sort()) files.push(read(join(dropInDir, name)));
  return files;
}
