import { posix } from 'node:path';
import { invalidField } from '#base/errors.ts';
import type { CgroupDriver } from './cgroup-hierarchy.ts';

/** Where a container's cgroup is. */
export interface ContainerCgroup {
  /** `linux.cgroupsPath` of the OCI spec: a path, or `slice:berth:id` for the systemd driver. */
  readonly cgroupsPath: string;
  /** The cgroup itself, absolute below every hierarchy. */
  readonly path: string;
  /** The pod's cgroup, which holds those of its containers; absolute as well. */
  readonly parent: string;
}

/** Where pods lie whose caller names no parent (crictl; never the kubelet). */
export const DEFAULT_PARENT = { cgroupfs: '/berth', systemd: 'system.slice' } as const satisfies Record<CgroupDriver, string>;

/**
 * The cgroup of a container below its pod's `linux.cgroup_parent`. Leaves are `<id>` (cgroupfs) and `berth-<id>.scope`
 * (systemd): the kubelet takes the id from what follows the last dash.
 * @throws {CriError} `invalidArgument` for a parent in the other driver's notation.
 */
export function containerCgroup(driver: CgroupDriver, parent: string, id: string): ContainerCgroup {
  const pod = parentCgroup(driver, parent);
  if (driver === 'cgroupfs') {
    const path = posix.join(pod, id);
    return { cgroupsPath: path, path, parent: pod };
  }
  const slice = posix.basename(pod) || '-.slice';
  return { cgroupsPath: `${slice}:berth:${id}`, path: posix.join(pod, `berth-${id}.scope`), parent: pod };
}

/** The pod's cgroup as an absolute path below every hierarchy. Throws like `containerCgroup`. */
export function parentCgroup(driver: CgroupDriver, parent: string): string {
  const given = parent === '' ? DEFAULT_PARENT[driver] : parent;
  return driver === 'systemd' ? slicePath(given) : plainPath(given);
}

/**
 * What the OCI spec says of the container's cgroup beside its place, from `cgroupsPath`. systemd limits the tasks of every
 * scope (DefaultTasksMax, 15 % of the machine's) unless told otherwise; how many a container may have is `linux.resources.pids`
 * and the pod's cgroup. Source: crun(1), runc's docs/systemd.md, systemd-system.conf(5).
 */
export function cgroupAnnotations(cgroupsPath: string): { readonly annotations?: Readonly<Record<string, string>> } {
  return cgroupsPath.startsWith('/') ? {} : { annotations: { 'org.systemd.property.TasksMax': 'uint64 18446744073709551615' } };
}

const FIELD = 'linux.cgroup_parent';

function plainPath(parent: string): string {
  if (!parent.startsWith('/')) throw invalidField(FIELD, parent, 'is not an absolute path, which the cgroupfs driver needs');
  if (parent.split('/').includes('..')) throw invalidField(FIELD, parent, 'must not hold ".."');
  const path = posix.join(parent, '.').replace(/(?<=.)\/+$/, '');
  if (path.endsWith('.slice')) {
    throw invalidField(FIELD, parent, 'is a systemd slice, but the cgroup manager here is cgroupfs: the kubelet and Berth must use the same');
  }
  return path;
}

/**
 * The kubelet sends the expanded path (`/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice`), people
 * send the slice's name; the last element says it all, since systemd makes each dash a level (systemd.slice(5)).
 */
function slicePath(parent: string): string {
  const slice = posix.basename(parent);
  if (!slice.endsWith('.slice')) throw invalidField(FIELD, parent, 'is not a slice, which the systemd cgroup driver needs');
  if (slice === '-.slice') return '/';
  const words = slice.slice(0, -'.slice'.length).split('-');
  if (words.includes('') || !/^[\w:.\\@-]+$/.test(slice)) throw invalidField(FIELD, parent, 'is not a valid slice name');
  return `/${words.map((_word, depth) => `${words.slice(0, depth + 1).join('-')}.slice`).join('/')}`;
}
