import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, describeError, quote } from '#base/errors.ts';
import type { LinuxContainerResources } from '../../proto/cri.ts';
import { clampOomScore, moveOomScores } from '../oci/oom-score.ts';
import { type ChangeOfResources, changeOfResources, mergeResources, validateResources } from '../oci/resources.ts';
import type { OciRuntime } from '../oci/runtime.ts';
import type { OciSpec } from '../oci/spec.ts';
import type { Parts } from '../parts.ts';
import { type ContainerRecord, processesOf } from './container.ts';

type Needs = Pick<Parts, 'config' | 'containers' | 'runtimes' | 'cgroups' | 'host' | 'locks' | 'log' | 'once' | 'paths' | 'signal'>;

/** How long the OCI runtime may take, and how long it may take to put things back. */
const UPDATE_MS = 30_000;

/**
 * Changes the limits of a created or running container: all that the request sets, or nothing. 0 and empty values stay
 * as they are. What is in force is remembered, and shown in the status, only after it is.
 * @throws {CriError} `invalidArgument` naming the field; `failedPrecondition` when the container has ended, or uses more
 * memory than it would be left with.
 */
export async function updateContainer(parts: Needs, id: string, request: LinuxContainerResources, caller: AbortSignal): Promise<void> {
  await using _lock = await parts.locks.acquire(id, caller);
  const record = parts.containers.get(id);
  if (record === undefined) throw new CriError('notFound', `container ${id} does not exist`);
  const { name } = record.state;
  if (name !== 'created' && name !== 'running')
    throw new CriError('failedPrecondition', `container ${id} is ${name}: only limits of a created or running one can change`);
  const runtime = parts.runtimes.get(record.handler);
  if (runtime === undefined) throw new CriError('failedPrecondition', `container ${id}: runtime handler "${record.handler}" is not configured any more`);
  const merged = mergeResources(record.resources, request);
  // What counts is the request with the limits that it has to agree with; the rest has been looked at before.
  const { memory_limit_in_bytes, memory_swap_limit_in_bytes } = merged;
  // A limit that stays as it is may be from before the handler had this minimum.
  const minMemoryBytes = request.memory_limit_in_bytes === '0' ? 0 : (parts.config.runtime.runtimes[record.handler]?.containerMinMemoryBytes ?? 0);
  validateResources('linux', { ...request, memory_limit_in_bytes, memory_swap_limit_in_bytes }, parts.host, minMemoryBytes);
  const change = changeOfResources(record.resources, merged, request, parts.host);
  await refuseBelowUsage(parts, record, change);
  await apply(parts, { record, runtime, merged, change });
  parts.log.info({ containerId: id, sandboxId: record.sandboxId }, 'Updated container resources');
}

/**
 * The kernel would make room by killing. What it can take back for nothing, pages of files that nobody has touched lately,
 * does not count.
 */
async function refuseBelowUsage({ cgroups }: Needs, { id, cgroup }: ContainerRecord, { update }: ChangeOfResources): Promise<void> {
  const limit = update.memory?.limit;
  if (limit === undefined) return;
  const used = (await cgroups.stats(cgroup))?.memory.workingSetBytes ?? 0;
  if (used > limit) {
    throw new CriError('failedPrecondition', `linux.memory_limit_in_bytes: ${quote(String(limit))} is below the ${used} bytes that container ${id} uses now`);
  }
}

interface Update {
  readonly record: ContainerRecord;
  readonly runtime: OciRuntime;
  /** What is in force when it has succeeded. */
  readonly merged: LinuxContainerResources;
  readonly change: ChangeOfResources;
}

async function apply(parts: Needs, { record, runtime, merged, change }: Update): Promise<void> {
  const { id, cgroup } = record;
  const before = await parts.cgroups.limits(cgroup, change.files);
  const scores = { from: givenScore(parts, record.resources), to: givenScore(parts, merged) };
  const bundle = parts.paths.bundle(id);
  const signal = AbortSignal.any([parts.signal, AbortSignal.timeout(UPDATE_MS)]);
  try {
    await runUpdate(runtime, bundle, id, change.update, signal);
    await parts.cgroups.setLimits(cgroup, change.files);
    if (scores.from !== scores.to) moveOomScores(() => parts.cgroups.procs(cgroup), scores);
    await noteInSpec(bundle, scores.to, change.update);
    await parts.containers.update(id, (old) => ({ ...old, resources: merged }), { lasting: true });
  } catch (err) {
    await rollBack(parts, { record, runtime, merged, change }, before, scores).catch((undoErr: unknown) =>
      parts.log.error({ err: undoErr, containerId: id }, 'Could not put back container resources'),
    );
    if (isOver(parts, id)) throw new CriError('failedPrecondition', `container ${id} ended while its limits were changed`, { cause: err });
    throw new CriError('unknown', `update container ${id}: nothing was changed: ${describeError(err)}`, { cause: err });
  }
}

/** The runtime first, since with the systemd driver the unit's properties are its to set; then what it left, file by file. */
async function rollBack(
  parts: Needs,
  { record: { id, cgroup, resources }, runtime, change }: Update,
  before: ReadonlyMap<string, string>,
  scores: { readonly from: number; readonly to: number },
): Promise<void> {
  const signal = AbortSignal.any([parts.signal, AbortSignal.timeout(UPDATE_MS)]);
  const bundle = parts.paths.bundle(id);
  await runUpdate(runtime, bundle, id, change.undo, signal).catch((err: unknown) =>
    parts.log.debug({ err, containerId: id }, 'Put back limits without the OCI runtime'),
  );
  await parts.cgroups.setLimits(cgroup, before);
  if (scores.from !== scores.to) moveOomScores(() => parts.cgroups.procs(cgroup), { from: scores.to, to: scores.from });
  await noteInSpec(bundle, givenScore(parts, resources), change.undo);
}

async function runUpdate(runtime: OciRuntime, bundle: string, id: string, resources: ChangeOfResources['update'], signal: AbortSignal): Promise<void> {
  if (Object.keys(resources).length === 0) return;
  const file = join(bundle, 'update.json');
  writeFileSync(file, JSON.stringify(resources), { mode: 0o600 }); // on a tmpfs: microseconds
  try {
    await runtime.update(id, file, { signal });
  } finally {
    rmSync(file, { force: true });
  }
}

function isOver({ containers }: Needs, id: string): boolean {
  const state = containers.get(id)?.state;
  return state === undefined || processesOf(state) === undefined;
}

/** What its processes were given: the asked score, as low as the daemon may go. */
function givenScore({ host }: Needs, resources: LinuxContainerResources | null): number {
  return clampOomScore(Number(resources?.oom_score_adj ?? 0), host);
}

/** A command that is executed later takes its score from there, and people look there for what is in force. */
async function noteInSpec(bundle: string, oomScoreAdj: number, { cpu, memory, hugepageLimits, unified }: ChangeOfResources['update']): Promise<void> {
  const path = join(bundle, 'config.json');
  const spec = JSON.parse(await readFile(path, 'utf8')) as OciSpec;
  const { resources } = spec.linux;
  const next = {
    ...spec,
    process: { ...spec.process, oomScoreAdj },
    linux: {
      ...spec.linux,
      resources: {
        ...resources,
        ...(cpu === undefined ? {} : { cpu: { ...resources.cpu, ...cpu } }),
        ...(memory === undefined ? {} : { memory: { ...resources.memory, ...memory } }),
        ...(hugepageLimits === undefined ? {} : { hugepageLimits }),
        ...(unified === undefined ? {} : { unified: { ...resources.unified, ...unified } }),
      },
    },
  };
  writeFileSync(`${path}.new`, JSON.stringify(next), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}
