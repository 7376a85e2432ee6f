import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { detectHierarchy } from '../../server/oci/cgroup-hierarchy.ts';

const { version, mounts } = detectHierarchy();

/** The cgroup version of this machine. */
export const cgroupVersion = version;

/** What limits a cgroup, as its files say, in the words of cgroup version 1; `none` for no limit. */
export interface Limits {
  readonly memory: string;
  /** Memory and swap together; absent where the kernel does not account for swap. */
  readonly memoryAndSwap?: string;
  readonly shares: string;
  readonly quota: string;
  readonly period: string;
  readonly cpus: string;
  readonly mems: string;
  readonly pids: string;
}

/** Directory of a controller's files for a process: of the cgroup that it is in. */
export function cgroupOf(pid: number, controller: string): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n');
  const name = version === 2 ? '' : controller;
  const own = lines.map((line) => line.split(':')).find(([, controllers]) => controllers?.split(',').includes(name));
  return join(mounts.get(version === 2 ? 'unified' : controller) ?? '/nonexistent', own?.[2] ?? '/');
}

/** One file of the cgroup that a process is in. */
export function cgroupFile(pid: number, file: string): string {
  return readFileSync(join(cgroupOf(pid, file.split('.', 1)[0] ?? ''), file), 'utf8').trim();
}

/** Version 1 only; what differs with version 2 is checked in the virtual machine of test/vm. */
export function limitsOf(pid: number): Limits {
  const read = (file: string): string => cgroupFile(pid, file).replace(/^(-1|max|9223372036854771712)$/, 'none');
  const swap = existsSync(join(cgroupOf(pid, 'memory'), 'memory.memsw.limit_in_bytes')) ? { memoryAndSwap: read('memory.memsw.limit_in_bytes') } : {};
  return {
    memory: read('memory.limit_in_bytes'),
    ...swap,
    shares: read('cpu.shares'),
    quota: read('cpu.cfs_quota_us'),
    period: read('cpu.cfs_period_us'),
    cpus: read('cpuset.cpus'),
    mems: read('cpuset.mems'),
    pids: read('pids.max'),
  };
}
