import { CriError, quote } from '#base/errors.ts';
import type { AdminRoute } from './admin.ts';
import type { Timeline, TimelineEntry, Timelines } from './sandbox/timeline.ts';

/** How a pod came up, or why it did not. */
export interface PodSummary {
  readonly id: string;
  /** `namespace/name`. */
  readonly pod: string;
  /** When RunPodSandbox began, in milliseconds since the epoch. */
  readonly at: number;
  /** How long it took; absent while it is under way. */
  readonly ms?: number;
  /** Why it failed. */
  readonly error?: string;
  /** The step that took longest, such as one CNI plugin. */
  readonly slowest?: TimelineEntry;
}

/** `GET /pods`, the newest first. */
export interface PodsAnswer {
  readonly pods: readonly PodSummary[];
}

/** `GET /pods/timeline?pod=ID`: of every pod with that name or that beginning of its id, the newest first. */
export interface TimelinesAnswer {
  readonly timelines: readonly Timeline[];
}

export function podRoutes({ timelines }: { readonly timelines: Timelines }): AdminRoute[] {
  return [
    { method: 'GET', path: '/pods', answer: async (): Promise<PodsAnswer> => ({ pods: timelines.all().reverse().map(summarize) }) },
    {
      method: 'GET',
      path: '/pods/timeline',
      answer: async ({ url }): Promise<TimelinesAnswer> => {
        const wanted = url.searchParams.get('pod') ?? '';
        if (wanted === '') throw new CriError('invalidArgument', 'pod: is empty');
        const found = timelines.all().filter(({ id, pod }) => id.startsWith(wanted) || pod === wanted || pod.endsWith(`/${wanted}`));
        if (found.length === 0) throw new CriError('notFound', `pod ${quote(wanted)}: no such pod was seen lately`);
        return { timelines: found.reverse() };
      },
    },
  ];
}

/** These hold others. */
const WHOLES = new Set(['RunPodSandbox', 'cni add']);

function summarize({ id, pod, entries }: Timeline): PodSummary {
  const run = entries.findLast(({ step }) => step === 'RunPodSandbox' || step === 'planning');
  const up = run === undefined ? entries : entries.filter(({ at }) => at <= run.at + run.ms);
  const slowest = up.filter(({ step }) => !WHOLES.has(step)).toSorted((one, other) => other.ms - one.ms)[0];
  return {
    id,
    pod,
    at: (run ?? entries[0])?.at ?? 0,
    ...(run === undefined ? {} : { ms: run.ms }),
    ...(run?.error === undefined ? {} : { error: run.error }),
    ...(slowest === undefined ? {} : { slowest }),
  };
}
