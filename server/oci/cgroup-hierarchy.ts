import { readFileSync } from 'node:fs';
import { CriError } from '#base/errors.ts';

/** What the kubelet calls its cgroup driver: who makes cgroups, and in whose notation their parents come. */
export type CgroupDriver = 'systemd' | 'cgroupfs';

/** The machine's cgroup hierarchies, as mounted. */
export interface CgroupHierarchy {
  /** 2 where all controllers are in the unified hierarchy; 1 also for a hybrid machine, whose controllers are v1. */
  readonly version: 1 | 2;
  /**
   * Controller to mount point. Version 2: only `unified`. Version 1: `memory`, `cpu`, … (several of them may share a
   * mount), `name=systemd`, and `unified` for the empty v2 hierarchy of a hybrid machine, where runtimes make cgroups too.
   */
  readonly mounts: ReadonlyMap<string, string>;
}

/**
 * Reads the hierarchies from a mountinfo file (format: proc_pid_mountinfo(5)). They do not change while a node runs:
 * ask once.
 * @throws {CriError} `failedPrecondition` when none is mounted.
 */
export function detectHierarchy(mountinfo = '/proc/self/mountinfo'): CgroupHierarchy {
  const mounts = new Map<string, string>();
  for (const line of readFileSync(mountinfo, 'utf8').split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const point = before.split(' ')[4];
    const [type, , options = ''] = after.split(' ');
    if (point === undefined || (type !== 'cgroup' && type !== 'cgroup2')) continue;
    // A second mount of a hierarchy shows nothing new.
    for (const controller of type === 'cgroup2' ? ['unified'] : options.split(',').filter(isController)) {
      if (!mounts.has(controller)) mounts.set(controller, unescapePath(point));
    }
  }
  if (mounts.size === 0) throw new CriError('failedPrecondition', `no cgroup hierarchy is mounted (${mountinfo})`);
  const version = ['memory', 'pids', 'cpu', 'cpuacct'].some((controller) => mounts.has(controller)) ? 1 : 2;
  if (version === 1) return { version, mounts };
  const unified = mounts.get('unified');
  if (unified === undefined) throw new CriError('failedPrecondition', `no cgroup hierarchy has controllers (${mountinfo})`);
  return { version, mounts: new Map([['unified', unified]]) };
}

/** The distinct mount points: `cpu` and `cpuacct` are often one. */
export function mountPoints({ mounts }: CgroupHierarchy): readonly string[] {
  return [...new Set(mounts.values())];
}

/** Super options of a v1 mount are `rw`, the controllers, and such as `xattr` or `release_agent=…`. */
function isController(option: string): boolean {
  return option.startsWith('name=') || CONTROLLERS.has(option);
}

const CONTROLLERS: ReadonlySet<string> = new Set([
  'blkio',
  'cpu',
  'cpuacct',
  'cpuset',
  'devices',
  'freezer',
  'hugetlb',
  'memory',
  'misc',
  'net_cls',
  'net_prio',
  'perf_event',
  'pids',
  'rdma',
]);

/** The kernel writes blanks, tabs, newlines and backslashes of paths in octal. */
function unescapePath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_all, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
