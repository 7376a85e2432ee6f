import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { PullOutcome } from '../../storage/storage.ts';
import { registerProcessMetrics } from './process.ts';

/** The stages of a pod's way up that are timed. */
export const POD_STAGES = [
  'namespaces',
  'cni_add',
  'pause_create',
  'pause_start',
  'container_rootfs',
  'container_spec',
  'container_create',
  'container_start',
] as const;

export type PodStage = (typeof POD_STAGES)[number];

export type ContainerStateName = 'created' | 'running' | 'exited' | 'unknown';
export type SandboxStateName = 'ready' | 'notready' | 'unknown';

/** What is counted when Prometheus asks, out of memory: these must not wait or compute for long. */
export interface MetricSources {
  containers(): Readonly<Record<ContainerStateName, number>>;
  sandboxes(): Readonly<Record<SandboxStateName, number>>;
  images(): number;
  /** Image pulls under way. */
  pulls(): number;
  /** Pods that are still to be taken off their network. */
  detachPending(): number;
  networkReady(): boolean;
}

/**
 * The daemon's metrics. Times go in as seconds. Every label has a closed set of values (an RPC, a code, a state; a CNI
 * plugin's name, which the node's configuration fixes), so that no workload can make the series grow.
 */
export interface Metrics extends Disposable {
  readonly registry: Registry;
  /** `code` is the gRPC status by name, such as `OK` or `DEADLINE_EXCEEDED`. */
  observeRpc(rpc: string, code: string, seconds: number): void;
  observeStage(stage: PodStage, seconds: number): void;
  /** One whole pull, shared or not, however it ended. */
  observePull(outcome: PullOutcome, seconds: number): void;
  /** Bytes that came from a registry just now. */
  countPullBytes(bytes: number): void;
  /** Requests for layers that were sent again, to the same place or to the next mirror. */
  countPullRetries(times: number): void;
  observeCni(
    call: { readonly verb: 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS' | 'VERSION'; readonly plugin: string; readonly ok: boolean },
    seconds: number,
  ): void;
  countOom(): void;
  /** A check of the image store has found something wrong. */
  countStoreFinding(kind: StoreFindingKind): void;
  /** A pod could not be taken off its network; it is tried again. */
  countDetachFailure(): void;
  /** From then on the gauges are asked of the daemon at every scrape. */
  collectFrom(sources: MetricSources): void;
}

type PullFailure = Exclude<PullOutcome, 'success' | 'cancelled'>;

/** How failures of pulls are labelled. */
const PULL_FAILURES: Readonly<Record<PullFailure, string>> = {
  unreachable: 'unreachable',
  notFound: 'not_found',
  unauthorised: 'unauthorised',
  corrupt: 'corrupt',
  refused: 'refused',
  policy: 'policy',
  noSpace: 'no_space',
  other: 'other',
};

const STORE_FINDING_KINDS = ['missing', 'altered', 'damaged', 'orphaned'] as const;

export type StoreFindingKind = (typeof STORE_FINDING_KINDS)[number];

const RPC_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const STAGE_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60];
const PULL_BUCKETS = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800];

export function createMetrics({ version }: { readonly version: string }): Metrics {
  const registry = new Registry();
  const registers = [registry];

  const rpc = new Histogram({
    name: 'berth_rpc_duration_seconds',
    help: 'Time from the arrival of a CRI request to its answer.',
    labelNames: ['rpc', 'code'],
    buckets: RPC_BUCKETS,
    registers,
  });
  const stage = new Histogram({
    name: 'berth_pod_start_stage_seconds',
    help: 'Time of each stage of starting a pod and its containers.',
    labelNames: ['stage'],
    buckets: STAGE_BUCKETS,
    registers,
  });
  for (const name of POD_STAGES) stage.zero({ stage: name });
  const cni = new Histogram({
    name: 'berth_cni_duration_seconds',
    help: 'Time of each execution of a CNI plugin.',
    labelNames: ['verb', 'plugin', 'result'],
    buckets: RPC_BUCKETS,
    registers,
  });
  const pulls = new Counter({ name: 'berth_image_pulls_total', help: 'Image pulls that have ended.', labelNames: ['outcome'], registers });
  for (const outcome of ['success', 'failure', 'cancelled']) pulls.inc({ outcome }, 0);
  const pullFailures = new Counter({
    name: 'berth_image_pull_failures_total',
    help: 'Image pulls that have failed, by reason.',
    labelNames: ['reason'],
    registers,
  });
  for (const reason of Object.values(PULL_FAILURES)) pullFailures.inc({ reason }, 0);
  const pullDuration = new Histogram({
    name: 'berth_image_pull_duration_seconds',
    help: 'Time of image pulls that have succeeded.',
    buckets: PULL_BUCKETS,
    registers,
  });
  const pullBytes = new Counter({ name: 'berth_image_pull_bytes_total', help: 'Bytes received from registries.', registers });
  const pullRetries = new Counter({ name: 'berth_image_pull_retries_total', help: 'Requests for layers that were sent again.', registers });
  const ooms = new Counter({ name: 'berth_container_oom_total', help: 'Containers that the OOM killer has ended.', registers });
  const detachFailures = new Counter({ name: 'berth_cni_detach_failures_total', help: 'Attempts to take a pod off its network that have failed.', registers });
  const findings = new Counter({
    name: 'berth_store_findings_total',
    help: 'What checks of the image store have found wrong.',
    labelNames: ['kind'],
    registers,
  });
  for (const kind of STORE_FINDING_KINDS) findings.inc({ kind }, 0);
  new Gauge({ name: 'berth_build_info', help: 'Always 1; the labels say what runs.', labelNames: ['version', 'node'], registers }).set(
    { version, node: process.versions.node },
    1,
  );
  const processMetrics = registerProcessMetrics(registry);

  return {
    registry,
    observeRpc: (name, code, seconds) => rpc.observe({ rpc: name, code }, seconds),
    observeStage: (name, seconds) => stage.observe({ stage: name }, seconds),
    observeCni: ({ verb, plugin, ok }, seconds) => cni.observe({ verb, plugin, result: ok ? 'success' : 'failure' }, seconds),
    observePull: (outcome, seconds) => {
      if (outcome === 'success') pullDuration.observe(seconds);
      if (outcome === 'success' || outcome === 'cancelled') pulls.inc({ outcome });
      else {
        pulls.inc({ outcome: 'failure' });
        pullFailures.inc({ reason: PULL_FAILURES[outcome] });
      }
    },
    countPullBytes: (bytes) => pullBytes.inc(bytes),
    countPullRetries: (times) => pullRetries.inc(times),
    countOom: () => ooms.inc(),
    countStoreFinding: (kind) => findings.inc({ kind }),
    countDetachFailure: () => detachFailures.inc(),
    collectFrom: (sources) => registerSources(registry, sources),
    [Symbol.dispose]: () => processMetrics[Symbol.dispose](),
  };
}

function registerSources(registry: Registry, sources: MetricSources): void {
  const registers = [registry];
  const byState = (name: string, help: string, count: () => Readonly<Record<string, number>>): void => {
    new Gauge({
      name,
      help,
      labelNames: ['state'],
      registers,
      collect() {
        for (const [state, value] of Object.entries(count())) this.set({ state }, value);
      },
    });
  };
  const single = (name: string, help: string, count: () => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(count());
      },
    });
  };
  byState('berth_containers', 'Containers by state.', () => sources.containers());
  byState('berth_sandboxes', 'Pod sandboxes by state.', () => sources.sandboxes());
  single('berth_images', 'Images in the store.', () => sources.images());
  single('berth_image_pulls_in_flight', 'Image pulls under way; equal ones are one.', () => sources.pulls());
  single('berth_cni_detach_pending', 'Pods that are still to be taken off their network.', () => sources.detachPending());
  single('berth_network_ready', '1 while the pod network is ready.', () => (sources.networkReady() ? 1 : 0));
}
