import { dirname } from 'node:path';
import type { ReachedLimit } from '../oci/cgroup-oom.ts';
import type { Parts } from '../parts.ts';
import type { ContainerRecord } from './container.ts';

type Needs = Pick<Parts, 'cgroups'>;

/** What is counted before a container starts, so that its end can be told from what was before it. */
export async function oomCounts({ cgroups }: Needs, cgroup: string): Promise<Pick<ContainerRecord, 'lostOomKills' | 'podOoms'>> {
  const [lostOomKills, podOoms] = await Promise.all([cgroups.lostOomKills(cgroup), cgroups.ownOoms(dirname(cgroup))]);
  return { ...(lostOomKills === undefined ? {} : { lostOomKills }), ...(podOoms === undefined ? {} : { podOoms }) };
}

/** OOM kills of a container that has ended, by what it left in the count of the cgroup above: the monitor may come too late for its own. */
export async function countLostOomKills({ cgroups }: Needs, { cgroup, lostOomKills }: ContainerRecord): Promise<number> {
  if (lostOomKills === undefined) return 0;
  return Math.max(0, ((await cgroups.lostOomKills(cgroup)) ?? 0) - lostOomKills);
}

/**
 * Whether the OOM killer has killed in the container. Its own count is the truth as long as its cgroup is there: with
 * version 1 a monitor is told of its pod's limit too, whoever was killed for it, and of a node without memory it is not.
 * @param told what the monitor and the count of the cgroup above say.
 */
export async function wasKilledForMemory({ cgroups }: Needs, { cgroup }: ContainerRecord, told: boolean): Promise<boolean> {
  const kills = await cgroups.oomKills(cgroup);
  return kills === undefined ? told : kills > 0;
}

/** Which limit the container was killed for, and how far it got. */
export async function explainOom({ cgroups }: Needs, record: ContainerRecord): Promise<string> {
  const { cgroup, resources, podOoms } = record;
  const own = Number(resources?.memory_limit_in_bytes ?? 0);
  if ((await cgroups.oomKills(cgroup)) !== undefined) return describeLimit(record, await cgroups.reachedLimit(cgroup));
  // Its cgroup is gone with its counts. What the pod's own limit has done meanwhile, the pod's tell.
  const pod = dirname(cgroup);
  const byPod = podOoms !== undefined && ((await cgroups.ownOoms(pod)) ?? 0) > podOoms;
  if (byPod || own === 0) return describeLimit(record, await cgroups.reachedLimit(pod));
  return describeLimit(record, { path: cgroup, limitBytes: own, peakBytes: undefined });
}

function describeLimit({ cgroup }: ContainerRecord, reached: ReachedLimit | undefined): string {
  if (reached === undefined) return 'out of memory: killed by the kernel because the node had no memory left; no limit of the container or its pod was reached';
  const { path, limitBytes, peakBytes } = reached;
  const owner = path === cgroup ? "the container's" : path === dirname(cgroup) ? "the pod's" : `cgroup ${path}'s`;
  const peak = peakBytes === undefined ? '' : ` (peak ${peakBytes} bytes)`;
  return `out of memory: ${owner} memory limit${limitBytes === undefined ? '' : ` of ${limitBytes} bytes`} was reached${peak}`;
}
