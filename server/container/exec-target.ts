import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, isErrno } from '#base/errors.ts';
import type { ProcessIdentity } from '#base/process.ts';
import { withExecAffinity } from '../oci/exec-affinity.ts';
import type { ExecCgroup, ExecutingContainer } from '../oci/exec-cgroup.ts';
import type { Parts } from '../parts.ts';
import type { ContainerRecord } from './container.ts';
import { type StreamOwner, streamOwner } from './streams.ts';

/** What an exec needs to know of its container. */
export interface ExecTarget {
  readonly id: string;
  readonly runtimePath: string;
  readonly runtimeRoot: string;
  /** Where two files lie while the command runs. */
  readonly bundle: string;
  readonly init: ProcessIdentity;
  /** The pids in the container's cgroup now. */
  readonly cgroupProcs: () => readonly number[];
  /** A cgroup for one command, or `NO_EXEC_CGROUP`. */
  readonly takeCgroup: () => ExecCgroup;
  /** `process` of the container's `config.json`: user, environment, capabilities and the rest are the container's own. */
  readonly process: object;
  /** Whom the command's pipes are given to, where the OCI runtime cannot. */
  readonly streamOwner?: StreamOwner | undefined;
}

type Needs = Pick<Parts, 'containers' | 'sandboxes' | 'config' | 'paths' | 'cgroups' | 'runtimes' | 'stops' | 'doomed' | 'signal'>;

/**
 * The record of a container that takes commands. In the grace period of a stop they are still welcome: that is when people
 * look what keeps it; once it is being killed they are not.
 * @throws {CriError} `notFound`, or `failedPrecondition` with the container's state.
 */
export function requireExecutable(parts: Pick<Parts, 'containers' | 'stops' | 'doomed'>, id: string): { record: ContainerRecord; init: ProcessIdentity } {
  const record = parts.containers.get(id);
  if (record === undefined || parts.doomed.has(id)) throw new CriError('notFound', `container ${id} does not exist`);
  const { state } = record;
  if (state.name !== 'running') throw new CriError('failedPrecondition', `container ${id} is ${state.name}: a command needs a running one`);
  if (parts.stops.get(id)?.killing === true) throw new CriError('failedPrecondition', `container ${id} is being killed: no command can be started in it`);
  return { record, init: state.init };
}

/** A running container as a place for commands. @throws {CriError} as `requireExecutable`. */
export async function execTarget(parts: Needs, id: string): Promise<ExecTarget> {
  const { record, init } = requireExecutable(parts, id);
  const { handler, cgroup } = record;
  const { runtimePath = '', runtimeRoot = '', execCpuAffinity = '' } = parts.config.runtime.runtimes[handler] ?? {};
  const bundle = parts.paths.bundle(id);
  const executing = await executingContainer(parts, { id, cgroup, handler });
  return {
    id,
    runtimePath,
    runtimeRoot,
    bundle,
    init,
    cgroupProcs: () => parts.cgroups.procs(cgroup),
    takeCgroup: () => parts.cgroups.execs.take(executing),
    process: withExecAffinity(await ociProcess(id, bundle), execCpuAffinity, record.resources?.cpuset_cpus ?? ''),
    streamOwner: streamOwner(parts.sandboxes.get(record.sandboxId)?.config, record.user),
  };
}

/** An OCI runtime says within milliseconds what it can; one that hangs must not hold up the command. */
const ASK_MS = 2_000;

/** What decides about cgroups for a container's commands. */
export async function executingContainer(
  { cgroups, runtimes, signal }: Pick<Parts, 'cgroups' | 'runtimes' | 'signal'>,
  { id, cgroup, handler }: { readonly id: string; readonly cgroup: string; readonly handler: string },
): Promise<ExecutingContainer> {
  const runtime = runtimes.get(handler);
  if (!cgroups.execs.needRuntime || runtime === undefined) return { id, cgroup, byRuntime: false };
  const limited = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]);
  return { id, cgroup, byRuntime: await runtime.takesExecCgroup({ signal: limited }).catch(() => false) };
}

/** The container's own process: its user, environment and rights are the command's too. */
async function ociProcess(id: string, bundle: string): Promise<object> {
  try {
    return (JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8')) as { process: object }).process;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) throw new CriError('failedPrecondition', `container ${id} was removed meanwhile`, { cause: err });
    throw err;
  }
}
