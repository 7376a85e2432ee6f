import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { orAborted } from '#base/abort.ts';
import { CriError, isErrno } from '#base/errors.ts';
import { spawnProcess } from '#base/exec.ts';
import { MNT, mount, umount } from '#base/sys.ts';
import { NO_FEATURES, type OciRuntime, type RuntimeFeatures } from './runtime.ts';
import type { OciMount } from './spec.ts';

export interface TrialOptions {
  /** To be made, on the file system that idmapped mounts are to work on, and removed in the end. */
  readonly directory: string;
  /** Static, for a process that never runs. */
  readonly program: string;
  readonly cgroup: TrialCgroup;
  readonly signal: AbortSignal;
}

/** The containers' cgroup. They are never in it at the same time. */
export interface TrialCgroup {
  /** As the OCI spec has it. */
  readonly cgroupsPath: string;
  /** Called once the containers are gone: gVisor's runtime leaves it. */
  remove(): Promise<void>;
}

/**
 * Finds out what an OCI runtime can do that has no `features` verb: it creates containers that need each feature, and we
 * look from outside whether they have it. They are never started.
 */
export async function tryFeatures(runtime: OciRuntime, { program, ...options }: TrialOptions): Promise<RuntimeFeatures> {
  const { directory, cgroup } = options;
  clear(directory); // an earlier daemon may have died in the middle
  try {
    makeRootfs(directory, program);
    const recursiveReadOnlyMounts = await tryReadOnly(runtime, options);
    const idmappedMounts = await tryIdmap(runtime, options);
    // Not tried: network devices came to runtimes long after the verb.
    return { ...NO_FEATURES, answered: true, recursiveReadOnlyMounts, idmappedMounts, userNamespaces: idmappedMounts };
  } finally {
    clear(directory);
    await cgroup.remove();
  }
}

type Place = Omit<TrialOptions, 'program'>;

function makeRootfs(directory: string, program: string): void {
  mkdirSync(directory, { mode: 0o711 });
  for (const name of ['rootfs', 'rootfs/proc', 'rootfs/dev', 'rootfs/data', 'outer']) mkdirSync(join(directory, name), { mode: 0o755 });
  copyFileSync(program, join(directory, 'rootfs/pause'));
}

/** A mount below the mounted one has to be read-only as well. */
async function tryReadOnly(runtime: OciRuntime, place: Place): Promise<boolean> {
  const { directory } = place;
  const outer = join(directory, 'outer');
  mount('trial', outer, 'tmpfs');
  mkdirSync(join(outer, 'inner'));
  mount('trial', join(outer, 'inner'), 'tmpfs');
  const data = { destination: '/data', type: 'bind', source: outer, options: ['rbind', 'rprivate', 'rro'] };
  try {
    return await withContainer(runtime, { ...place, mounts: [data], linux: { namespaces: [{ type: 'mount' }, { type: 'pid' }] } }, (pid) =>
      isReadOnly(pid, '/data/inner'),
    );
  } finally {
    unmountAll(directory);
  }
}

/** A host id that no user has, and a whole pod's worth of them. */
const HOST_ID = 1_000_000_000;
const IDS = 65_536;

/** A file of root has to belong to the mapped root inside, which only an idmapped mount does. */
async function tryIdmap(runtime: OciRuntime, place: Place): Promise<boolean> {
  const mappings = [{ containerID: 0, hostID: HOST_ID, size: IDS }];
  const maps = { uidMappings: mappings, gidMappings: mappings };
  const data = { destination: '/data', type: 'bind', source: join(place.directory, 'outer'), options: ['rbind', 'rprivate'], ...maps };
  const linux = { namespaces: [{ type: 'mount' }, { type: 'pid' }, { type: 'user' }], ...maps };
  return await withContainer(runtime, { ...place, mounts: [data], linux }, (pid) => statSync(`/proc/${pid}/root/data`).uid === HOST_ID);
}

/** For taking a container away, whatever has become of the trial. */
const CLEAR_MS = 20_000;

interface Trial extends Place {
  readonly mounts: readonly (OciMount & Readonly<Record<string, unknown>>)[];
  readonly linux: Readonly<Record<string, unknown>>;
}

/** What `look` says of the created container; false where the runtime refuses to create it. */
async function withContainer(runtime: OciRuntime, { directory, mounts, linux, cgroup, signal }: Trial, look: (pid: number) => boolean): Promise<boolean> {
  const id = `berth-trial-${runtime.handler}`;
  const pidFile = join(directory, 'pid');
  const spec = {
    ociVersion: '1.0.2',
    root: { path: 'rootfs' },
    process: { user: { uid: 0, gid: 0 }, cwd: '/', args: ['/pause'], noNewPrivileges: true },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }, { destination: '/dev', type: 'tmpfs', source: 'tmpfs' }, ...mounts],
    linux: { ...linux, cgroupsPath: cgroup.cgroupsPath },
  };
  writeFileSync(join(directory, 'config.json'), JSON.stringify(spec));
  await runtime.delete(id, { force: true, signal });
  // The container holds on to its output: a pipe would not end with the command.
  const output = openSync('/dev/null', 'r+');
  try {
    const args = [...runtime.globalArgs(), 'create', '--bundle', directory, '--pid-file', pidFile, id];
    const { exited } = await spawnProcess(runtime.path, args, { stdio: [output, output, output], cwd: directory });
    const { exitCode } = await orAborted(exited, signal);
    return exitCode === 0 && look(Number(readFileSync(pidFile, 'latin1')));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'EACCES')) return false; // it was made, but not what was asked for
    throw err;
  } finally {
    closeSync(output);
    rmSync(pidFile, { force: true });
    await runtime.delete(id, { force: true, signal: AbortSignal.timeout(CLEAR_MS) });
  }
}

/** By the kernel's word, format proc_pid_mountinfo(5). */
function isReadOnly(pid: number, path: string): boolean {
  const lines = readFileSync(`/proc/${pid}/mountinfo`, 'utf8').split('\n');
  const options = lines.map((line) => line.split(' ')).find(([, , , , point]) => point === path)?.[5];
  return options?.split(',').includes('ro') === true;
}

function clear(directory: string): void {
  unmountAll(directory);
  const mounted = readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${directory}/`);
  if (mounted) throw new CriError('failedPrecondition', `${directory}: something is mounted there`); // never remove files through a mount
  rmSync(directory, { recursive: true, force: true });
}

function unmountAll(directory: string): void {
  try {
    umount(join(directory, 'outer'), MNT.DETACH | MNT.NOFOLLOW);
  } catch (err) {
    if (!isErrno(err, 'EINVAL', 'ENOENT')) throw err;
  }
}
