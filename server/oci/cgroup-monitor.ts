import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { createCgroup } from './cgroup-fs.ts';
import type { CgroupHierarchy } from './cgroup-hierarchy.ts';

/** Where monitors (conmon) live, so that no pod is charged for them and a restart of the daemon leaves them alone. */
export interface MonitorCgroup {
  /** Moves a monitor there; nothing happens when it has ended already, or when monitors stay in the daemon's own cgroup. */
  place(pid: number): Promise<void>;
}

/**
 * Makes the monitors' cgroup. `path` is absolute below every hierarchy, or relative to the daemon's own cgroup, which a
 * unit with `Delegate=yes` may divide; empty leaves monitors where the daemon is.
 */
export async function createMonitorCgroup(hierarchy: CgroupHierarchy, path: string, { selfCgroup = '/proc/self/cgroup' } = {}): Promise<MonitorCgroup> {
  if (path === '') return { place: async () => {} };
  if (path.startsWith('/')) await createCgroup(hierarchy, path);
  const own = path.startsWith('/') ? undefined : ownCgroups(readFileSync(selfCgroup, 'utf8'));
  const dirs: string[] = [];
  for (const [controller, mount] of hierarchy.mounts) {
    const dir = own === undefined ? join(mount, path) : join(mount, own.get(controller) ?? '/', path);
    if (dirs.includes(dir)) continue;
    if (own !== undefined) await createCgroup({ version: hierarchy.version, mounts: new Map([[controller, mount]]) }, join(own.get(controller) ?? '/', path));
    dirs.push(dir);
  }
  return {
    place: async (pid) => {
      try {
        await Promise.all(dirs.map((dir) => writeFile(join(dir, 'cgroup.procs'), String(pid))));
      } catch (err) {
        if (!isErrno(err, 'ESRCH')) throw err;
      }
    },
  };
}

/** Controller to the cgroup in its hierarchy, from /proc/PID/cgroup (cgroups(7)); version 2 is `unified`. */
function ownCgroups(text: string): ReadonlyMap<string, string> {
  const own = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [, controllers, ...path] = line.split(':');
    if (controllers === undefined) continue;
    for (const controller of controllers === '' ? ['unified'] : controllers.split(',')) own.set(controller, path.join(':'));
  }
  return own;
}
