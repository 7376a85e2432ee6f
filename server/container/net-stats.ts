import { readFile } from 'node:fs/promises';
import { isErrno } from '#base/errors.ts';

/** Counters of one interface since it was made. */
export interface InterfaceStats {
  readonly name: string;
  readonly rxBytes: number;
  readonly rxErrors: number;
  readonly txBytes: number;
  readonly txErrors: number;
}

export interface NetStats {
  /** When it was read, in nanoseconds since 1970. */
  readonly timestampNs: bigint;
  /** `eth0`, else the first there is; `undefined` in a pod without any. */
  readonly defaultInterface: InterfaceStats | undefined;
  /** All but the loopback, the default one included. */
  readonly interfaces: readonly InterfaceStats[];
}

/**
 * What went through the interfaces of a process's network namespace, as /proc/PID/net/dev has it (proc_pid_net(5)), so
 * nobody has to enter it; `undefined` when the process is gone.
 */
export async function readNetStats(pid: number, { procRoot = '/proc' } = {}): Promise<NetStats | undefined> {
  let text: string;
  try {
    text = await readFile(`${procRoot}/${pid}/net/dev`, 'latin1');
  } catch (err) {
    // ENOENT also for a zombie, which has left its namespaces; ENXIO while the namespace is taken down.
    if (isErrno(err, 'ENOENT', 'ESRCH', 'ENXIO')) return undefined;
    throw err;
  }
  const interfaces = text.split('\n').slice(2).flatMap(parseInterface);
  return {
    timestampNs: BigInt(Date.now()) * 1_000_000n,
    defaultInterface: interfaces.find(({ name }) => name === 'eth0') ?? interfaces[0],
    interfaces,
  };
}

/** `eth0: ` and sixteen counters: eight received (bytes, packets, errors, …), eight sent. */
function parseInterface(line: string): InterfaceStats[] {
  const colon = line.lastIndexOf(':');
  if (colon < 0) return [];
  const name = line.slice(0, colon).trim();
  if (name === 'lo') return [];
  const counters = line
    .slice(colon + 1)
    .trim()
    .split(/\s+/)
    .map(Number);
  return [{ name, rxBytes: counters[0] ?? 0, rxErrors: counters[2] ?? 0, txBytes: counters[8] ?? 0, txErrors: counters[10] ?? 0 }];
}
