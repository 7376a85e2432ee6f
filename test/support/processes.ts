import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readProcessStat } from '#base/process.ts';
import type { Daemon } from './daemon.ts';

/** The processes that hold a container, or a pod's pause process, by what the monitor has written into the bundle. */
export function processesOf({ runroot }: Pick<Daemon, 'runroot'>, id: string): { readonly init: number; readonly monitor: number } {
  const read = (name: string): number => Number(readFileSync(join(runroot, 'bundles', id, name), 'utf8'));
  return { init: read('pidfile'), monitor: read('conmon.pid') };
}

/** True while the process exists and is no zombie. */
export function lives(pid: number): boolean {
  const stat = readProcessStat(pid);
  return stat !== undefined && stat.state !== 'Z' && stat.state !== 'X';
}
