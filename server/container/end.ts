import { dirname } from 'node:path';
import { readExit } from '../../conmon/conmon.ts';
import type { Parts } from '../parts.ts';
import { type ContainerRecord, type ContainerState, move, processesOf } from './container.ts';
import { countLostOomKills, explainOom, wasKilledForMemory } from './oom.ts';
import { releaseContainer } from './take-down.ts';

/** What noting an end takes. */
export type EndNeeds = Pick<
  Parts,
  | 'making'
  | 'containers'
  | 'storage'
  | 'runtimes'
  | 'cgroups'
  | 'deaths'
  | 'paths'
  | 'log'
  | 'locks'
  | 'signal'
  | 'doomed'
  | 'now'
  | 'background'
  | 'observeOom'
>;

/** How a container ended, where no exit file tells. */
export interface KnownEnd {
  readonly exitCode: number;
  readonly reason: string;
  readonly message: string;
}

/**
 * Notes that a container's first process has ended, by its exit file or by what is known otherwise, wakes who waits for
 * it, and gives back what it held. Does nothing when the end is noted already.
 */
export async function noteEnd(parts: EndNeeds, id: string, known?: KnownEnd): Promise<void> {
  const record = parts.containers.get(id);
  if (record === undefined || record.state.name === 'exited' || record.state.name === 'creating') return;
  const exit = await readExit(parts.paths.exits, id, parts.paths.bundle(id));
  if (exit === undefined && known === undefined) return;
  const oomKills = await countLostOomKills(parts, record);
  const oom = exit !== undefined && exit.exitCode !== 0 && (await wasKilledForMemory(parts, record, exit.oomKilled || oomKills > 0));
  const ended: KnownEnd =
    exit === undefined
      ? (known as KnownEnd)
      : { exitCode: exit.exitCode, reason: reasonOf(exit.exitCode, oom), message: oom ? await explainOom(parts, record) : '' };
  const finishedAt = exit === undefined ? parts.now() : String(exit.finishedAt);
  let noted = false;
  await parts.containers.update(
    id,
    (old) => {
      if (old.state.name !== 'created' && old.state.name !== 'running') return undefined;
      noted = true;
      const to: ContainerState = { name: 'exited', startedAt: old.state.name === 'running' ? old.state.startedAt : '0', finishedAt, ...ended };
      return { ...old, state: move(id, old.state, to) };
    },
    { lasting: true },
  );
  parts.deaths.announce(id);
  if (!noted) return;
  if (oomKills > 0) await attributeOomKills(parts, record, oomKills);
  if (oom) parts.observeOom();
  parts.log.info({ containerId: id, sandboxId: record.sandboxId, exitCode: ended.exitCode, reason: ended.reason }, 'Ended container');
  parts.background('release container', () => releaseEnded(parts, id));
}

/** Gives back what a container that has ended still holds. Safe to repeat. */
export async function releaseEnded(parts: EndNeeds, id: string): Promise<void> {
  await using _lock = await parts.locks.acquire(id, parts.signal);
  const record = parts.containers.get(id);
  if (record?.state.name === 'exited') await releaseContainer(parts, record, AbortSignal.any([parts.signal, AbortSignal.timeout(30_000)]));
}

/** The neighbours must not take them for their own when they end. */
async function attributeOomKills({ containers }: EndNeeds, { id, cgroup }: ContainerRecord, oomKills: number): Promise<void> {
  const neighbours = [...containers.values()].filter(
    (other) => other.id !== id && dirname(other.cgroup) === dirname(cgroup) && processesOf(other.state) !== undefined,
  );
  for (const other of neighbours) {
    await containers.update(other.id, (old) => (old.lostOomKills === undefined ? undefined : { ...old, lostOomKills: old.lostOomKills + oomKills }));
  }
}

function reasonOf(exitCode: number, oom: boolean): string {
  if (oom) return 'OOMKilled';
  return exitCode === 0 ? 'Completed' : 'Error';
}
