import type { PodSummary, PodsAnswer, TimelinesAnswer } from '../admin-pods.ts';
import type { Timeline } from '../sandbox/timeline.ts';
import { askOnce } from './admin-client.ts';

export type PodCommand =
  | { readonly verb: 'ls'; readonly slow: boolean; readonly json: boolean }
  | { readonly verb: 'timeline'; readonly pod: string; readonly json: boolean };

/** Runs one of `berth pod`'s commands and returns what it prints. Throws as `askDaemon`. */
export async function runPodCommand(command: PodCommand, socketPath: string): Promise<string> {
  if (command.verb === 'ls') {
    const { pods } = await askOnce<PodsAnswer>(socketPath, { method: 'GET', path: '/pods' });
    const ordered = command.slow ? pods.toSorted((one, other) => (other.ms ?? 0) - (one.ms ?? 0)) : pods;
    return command.json ? `${JSON.stringify({ pods: ordered })}\n` : formatPods(ordered);
  }
  const answer = await askOnce<TimelinesAnswer>(socketPath, { method: 'GET', path: `/pods/timeline?pod=${encodeURIComponent(command.pod)}` });
  return command.json ? `${JSON.stringify(answer)}\n` : answer.timelines.map(formatTimeline).join('\n');
}

/** A table: when it began, how long RunPodSandbox took, the slowest step, why it failed. */
export function formatPods(pods: readonly PodSummary[]): string {
  const rows = pods.map(({ id, pod, at, ms, slowest, error }) => [
    id.slice(0, 13),
    pod,
    new Date(at).toISOString(),
    ms === undefined ? 'under way' : formatMs(ms),
    slowest === undefined ? '' : `${formatMs(slowest.ms)} ${slowest.step}`,
    error === undefined ? '' : `failed: ${error}`,
  ]);
  return formatTable([['ID', 'POD', 'BEGAN', 'TOOK', 'SLOWEST STEP', ''], ...rows]);
}

/** Its steps with the time since the first one. */
export function formatTimeline({ id, pod, entries }: Timeline): string {
  const first = Math.min(...entries.map(({ at }) => at));
  const rows = entries
    .toSorted((one, other) => one.at - other.at)
    .map(({ at, ms, step, error }) => [`+${formatMs(at - first)}`, formatMs(ms), step, error === undefined ? '' : `failed: ${error}`]);
  return `${pod} ${id}${entries.length === 0 ? '' : `, began ${new Date(first).toISOString()}`}\n${formatTable([['AFTER', 'TOOK', 'STEP', ''], ...rows])}`;
}

function formatMs(ms: number): string {
  return ms >= 10_000 ? `${(ms / 1000).toFixed(1)}s` : `${ms.toFixed(ms < 10 ? 1 : 0)}ms`;
}

function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}
