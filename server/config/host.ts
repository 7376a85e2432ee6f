import { accessSync, constants, statSync } from 'node:fs';
import { join } from 'node:path';
import { readEnvironment } from './environment.ts';

/** What defaults and checks need to know of the machine. */
export interface Host {
  /** systemd runs as init (/run/systemd/system is there, see sd_booted(3)). */
  readonly systemd: boolean;
  /** Absolute path of a program on PATH. */
  readonly findProgram: (name: string) => string | undefined;
  readonly isExecutable: (path: string) => boolean;
  readonly isFile: (path: string) => boolean;
}

/** The machine we run on. */
export function thisHost(): Host {
  const isFile = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  const isExecutable = (path: string): boolean => {
    try {
      accessSync(path, constants.X_OK);
      return isFile(path);
    } catch {
      return false;
    }
  };
  const { path } = readEnvironment();
  return {
    systemd: statSync('/run/systemd/system', { throwIfNoEntry: false })?.isDirectory() === true,
    findProgram: (name) => path.map((dir) => join(dir, name)).find(isExecutable),
    isExecutable,
    isFile,
  };
}
