// The figures side by side, with the goals, as Markdown.
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import type { Measured } from './rounds.ts';

/** What is asked of Berth: a ratio to containerd's figure, or a figure of its own. */
interface Goal {
  readonly what: string;
  readonly from: 'samples' | 'figures';
  readonly key: string;
  readonly quantile: number;
  readonly unit: string;
  readonly goal: string;
  /** Samples of this run that it is held against instead of containerd's. */
  readonly against?: string;
  readonly met: (berth: number, ratio: number) => boolean;
}

const ratio = (key: string, goal: number, { quantile = 0.5, what = key } = {}): Goal => ({
  what: quantile === 0.5 ? what : `${what}, p95`,
  from: 'samples',
  key,
  quantile,
  unit: 'ms',
  goal: `≤ ${goal} of containerd's`,
  met: (_berth, found) => found <= goal,
});

const limit = (key: string, goal: number, unit: string): Goal => ({
  what: key,
  from: 'figures',
  key,
  quantile: 0.5,
  unit,
  goal: `≤ ${goal} ${unit}`,
  met: (berth) => berth <= goal,
});

const atLeast = (key: string, goal: number, unit: string): Goal => ({
  what: key,
  from: 'figures',
  key,
  quantile: 0.5,
  unit,
  goal: `≥ ${goal} ${unit}`,
  met: (berth) => berth >= goal,
});

export const goals = (pods: number): readonly Goal[] => [
  ratio('pod-up', 0.55, { what: 'pod-up: RunPodSandbox + CreateContainer + StartContainer, with pause' }),
  ratio('pod-up', 0.6, { quantile: 0.95 }),
  ratio('ExecSync, 1 pod', 0.75),
  ratio(`ExecSync, ${pods} pods`, 0.5),
  ratio('pod-down', 0.8, { what: 'pod-down: StopContainer(0) to RemovePodSandbox' }),
  {
    what: `${pods} pods, 10 at a time`,
    from: 'figures',
    key: 'pods per second',
    quantile: 0.5,
    unit: 'pods/s',
    goal: "≥ 1.4 of containerd's",
    met: (_berth, found) => found >= 1.4,
  },
  ratio(`ContainerStatus, ${pods} pods`, 1.3),
  ratio(`ListContainers, ${pods} pods`, 1.3),
  ratio(`ListPodSandbox, ${pods} pods`, 1.3),
  limit('exec without a terminal, first byte', 12, 'ms'),
  limit('exec with a terminal, first byte', 25, 'ms'),
  atLeast('200 MB out of exec by SPDY', 200, 'MB/s'),
  atLeast('200 MB out of exec by WebSocket', 300, 'MB/s'),
  atLeast('port-forward throughput', 500, 'MB/s'),
  limit('port-forward, added to a round trip', 0.3, 'ms'),
  limit('daemon PSS while streaming, more than before', 40, 'MiB'),
  {
    ...ratio('CNI chain', 1, { what: 'CNI ADD: bridge, host-local, portmap, against the same executed by hand' }),
    against: 'CNI chain by hand',
    goal: '≤ 1.5 ms more',
    met: (berth, found) => berth - berth / found <= 1.5,
  },
  {
    ...ratio('CNI chains', 1.1, { what: `${pods} of them, 10 at a time, against a shell loop` }),
    against: 'CNI chains by a shell loop',
    goal: '≤ 1.1 of that',
  },
  limit('daemon PSS idle', 85, 'MiB'),
  limit('daemon PSS with the pods', 100, 'MiB'),
  limit('daemon CPU idle', 0.5, '% of a core'),
  limit('start to READY', 300, 'ms'),
  limit('daemon CPU per pod', 12, 'ms'),
  limit('helpers PSS per pod', 0.85, 'MiB'),
  ratio('PullImage, big', 0.55, { what: 'PullImage of 250 MB in four layers' }),
  {
    what: 'the same, against `gzip -d` into `tar -x` over its layers at once',
    from: 'samples',
    key: 'PullImage, big',
    quantile: 0.5,
    unit: 'ms',
    goal: '≤ 1.5 of that',
    against: 'gzip -d into tar -x',
    met: (_berth, found) => found <= 1.5,
  },
  limit('daemon CPU for the big pull', 150, 'ms'),
  limit('peak PSS of all processes in the pull', 350, 'MiB'),
  { ...limit('ContainerStatus within the pull', 10, 'ms'), from: 'samples', quantile: 0.99, what: 'ContainerStatus within the pull, p99' },
  ratio('RemoveImage, big', 0.8, { what: 'RemoveImage of it, with its disk space' }),
  { ...limit('ContainerStatus within the removal', 10, 'ms'), from: 'samples', quantile: 0.99, what: 'ContainerStatus within the removal, p99' },
  { ...limit('ListImages, 500 images', 15, 'ms'), from: 'samples' },
  { ...limit('ImageFsInfo', 2, 'ms'), from: 'samples' },
];

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))] ?? Number.NaN;
}

export function table(berth: Measured, containerd: Measured, pods: number): string {
  const taken = goals(pods).filter(({ from, key }) => berth[from].has(key));
  const rows = taken.map(({ what, from, key, quantile: q, unit, goal, against, met }) => {
    const mine = quantile(berth[from].get(key) ?? [], q);
    const theirs = quantile((against === undefined ? containerd[from].get(key) : berth.samples.get(against)) ?? [], q);
    return `| ${what} (${unit}) | ${show(mine)} | ${show(theirs)} | ${show(mine / theirs)} | ${goal} | ${met(mine, mine / theirs) ? 'met' : '**missed**'} |`;
  });
  return ['| | Berth | containerd | ratio | goal | |', '|---|---|---|---|---|---|', ...rows, ''].join('\n');
}

export function machine(): string {
  const memory = Number(/^MemTotal:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'latin1'))?.[1] ?? 0);
  const release = readFileSync('/proc/sys/kernel/osrelease', 'latin1').trim();
  return `${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'}), ${Math.round(memory / 1024 ** 2)} GiB, Linux ${release}`;
}

function show(value: number): string {
  if (!Number.isFinite(value)) return '–';
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
