import type { HostFacts } from './host-facts.ts';

/** What may be written to a child's oom_score_adj: below the daemon's own only with CAP_SYS_RESOURCE. Source: proc_pid_oom_score_adj(5). */
export function clampOomScore(asked: number, { canLowerOomScore, oomScoreAdj }: Pick<HostFacts, 'canLowerOomScore' | 'oomScoreAdj'>): number {
  return canLowerOomScore ? asked : Math.max(asked, oomScoreAdj);
}
