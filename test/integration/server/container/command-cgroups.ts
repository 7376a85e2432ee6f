import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { detectHierarchy } from '../../../../server/oci/cgroup-hierarchy.ts';
import { type ExecCgroup, type ExecCgroups, type ExecutingContainer, openExecCgroups } from '../../../../server/oci/exec-cgroup.ts';
import type { TestBundle } from '../../conmon/bundle.ts';

let opened: ExecCgroups | undefined;

/** The machine's cgroups for commands, as a daemon has them. */
export function execs(): ExecCgroups {
  opened ??= openExecCgroups(detectHierarchy(), join(tmpdir(), `cg-${randomBytes(8).toString('hex')}`));
  return opened;
}

export const executing = ({ spec: { id }, cgroupPath }: TestBundle): ExecutingContainer => ({ id, cgroup: cgroupPath, byRuntime: true });

/** For the `ExecTarget` of a bundle. */
export const takeCgroup = (bundle: TestBundle) => (): ExecCgroup => execs().take(executing(bundle));

/** Ends a bundle and the cgroups of its commands. */
export async function disposeOf(bundle: TestBundle): Promise<void> {
  await bundle[Symbol.asyncDispose]();
  await execs().remove(bundle.spec.id);
}

/** Those that a container has now. */
export function cgroupNames({ spec: { id }, cgroupPath }: TestBundle): string[] {
  const roots = readdirSync('/proc/self/fd').map((fd) => `/proc/self/fd/${fd}/${id}`);
  const there = [...roots, `/sys/fs/cgroup${cgroupPath}`].filter((path) => existsSync(join(path, 'cgroup.procs')));
  return there
    .flatMap((path) => readdirSync(path))
    .filter((name) => name.startsWith('berth-exec-'))
    .sort();
}
