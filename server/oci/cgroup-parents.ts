import { access, rmdir } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { refuseRoot, telling } from './cgroup-fs.ts';
import { type CgroupHierarchy, mountPoints } from './cgroup-hierarchy.ts';

/**
 * Pods' cgroups that nobody made before us. The kubelet makes its own and takes them away itself; for everyone else the
 * OCI runtime makes what is missing of the path and leaves it behind, and another pod may have begun to use it meanwhile.
 */
export interface ParentCgroups {
  /** See `Cgroups.firstMissing`. */
  firstMissing(path: string): Promise<string | undefined>;
  /** See `Cgroups.adopt`. */
  adopt(path: string, topmost: string): void;
  /** See `Cgroups.removeEmpty`. */
  removeEmpty(path: string, topmost: string): Promise<void>;
}

export function createParentCgroups(hierarchy: CgroupHierarchy): ParentCgroups {
  /** Levels that were missing when a pod asked, so that the next pod below them knows whose they are. */
  const made = new Set<string>();
  return {
    firstMissing: async (path) => {
      let topmost: string | undefined;
      for (const level of levelsFrom(path)) {
        if (!made.has(level) && (await exists(hierarchy, level))) break;
        made.add(level);
        topmost = level;
      }
      return topmost;
    },

    adopt: (path, topmost) => {
      for (const level of levelsFrom(path)) if (isWithin(level, topmost)) made.add(level);
    },

    removeEmpty: async (path, topmost) => {
      refuseRoot(topmost);
      const levels = levelsFrom(path).filter((level) => isWithin(level, topmost));
      for (const mount of mountPoints(hierarchy)) {
        for (const level of levels) if (!(await removeIfEmpty(join(mount, level)))) break;
      }
      for (const level of levels) if (!(await exists(hierarchy, level))) made.delete(level);
    },
  };
}

/** The path itself and those above it, but the root. */
function levelsFrom(path: string): string[] {
  const levels: string[] = [];
  for (let level = path; level !== '/' && level !== '.'; level = posix.dirname(level)) levels.push(level);
  return levels;
}

function isWithin(level: string, topmost: string): boolean {
  return level === topmost || level.startsWith(`${topmost}/`);
}

/** One hierarchy is asked: who makes a pod's cgroup makes it in all that have a controller. */
async function exists(hierarchy: CgroupHierarchy, path: string): Promise<boolean> {
  try {
    await access(join(telling(hierarchy), path));
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return false;
    throw err;
  }
}

async function removeIfEmpty(dir: string): Promise<boolean> {
  try {
    await rmdir(dir);
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENODEV')) return true;
    if (isErrno(err, 'EBUSY', 'ENOTEMPTY')) return false;
    throw err;
  }
}
