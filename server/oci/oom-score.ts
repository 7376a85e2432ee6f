import { readFileSync, writeFileSync } from 'node:fs';
import { isErrno } from '#base/errors.ts';
import type { HostFacts } from './host-facts.ts';

/** What may be written to a child's oom_score_adj: below the daemon's own only with CAP_SYS_RESOURCE. Source: proc_pid_oom_score_adj(5). */
export function clampOomScore(asked: number, { canLowerOomScore, oomScoreAdj }: Pick<HostFacts, 'canLowerOomScore' | 'oomScoreAdj'>): number {
  return canLowerOomScore ? asked : Math.max(asked, oomScoreAdj);
}

/** Looks at most so often for children that were forked with the old score meanwhile. */
const PASSES = 10;

/**
 * Gives the score `to` to every process that has the score `from`: children inherit it, and one that was given another on
 * purpose keeps that. Synchronous: microseconds each.
 */
export function moveOomScores(pids: () => readonly number[], { from, to }: { readonly from: number; readonly to: number }): void {
  for (let pass = 0; pass < PASSES; pass += 1) {
    const moved = pids().filter((pid) => moveOomScore(pid, from, to));
    if (moved.length === 0) return;
  }
}

function moveOomScore(pid: number, from: number, to: number): boolean {
  const path = `/proc/${pid}/oom_score_adj`;
  try {
    if (Number(readFileSync(path, 'latin1')) !== from) return false;
    writeFileSync(path, String(to), { flag: 'r+' });
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return false; // it has ended
    throw err;
  }
}
