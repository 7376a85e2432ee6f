import type { CgroupStats } from '../oci/cgroup-stats.ts';

/** A cgroup to measure: a container's, or a pod's under its sandbox's id. */
export interface StatsTarget {
  readonly id: string;
  readonly cgroupPath: string;
}

export interface UsageSample extends CgroupStats {
  /** CPU used per second, in nanoseconds (a billion is one core), between this sample and an earlier one; `undefined` for the first. */
  readonly cpuUsageNanoCores: bigint | undefined;
}

interface Baseline {
  readonly timestampNs: bigint;
  readonly cpuUsageNs: bigint;
  readonly nanoCores: bigint | undefined;
}

/** A rate over less than this is noise. */
const MIN_WINDOW_NS = 1_000_000_000n;
/** A rate over more than this says nothing of now. */
const MAX_WINDOW_NS = 120_000_000_000n;

/**
 * Measures cgroups when asked and derives CPU rates between the questions, with no sampler in the background: the kubelet
 * asks every 10 s, and a sampler would cost every node to serve those who ask once.
 *
 * Per id one earlier sample is kept, at least 1 s older than the one that replaces it; a question within that second gets
 * the rate of the last one. After 2 minutes without a question the next sample is a first one.
 */
export class StatsCollector {
  readonly #read: (path: string) => Promise<CgroupStats | undefined>;
  readonly #baselines = new Map<string, Baseline>();
  #prunedNs = 0n;

  constructor(deps: { readonly stats: (cgroupPath: string) => Promise<CgroupStats | undefined> }) {
    this.#read = deps.stats;
  }

  /** What the cgroup uses now; `undefined` once it is gone. */
  async sample({ id, cgroupPath }: StatsTarget): Promise<UsageSample | undefined> {
    const stats = await this.#read(cgroupPath);
    this.#prune();
    if (stats === undefined) {
      this.#baselines.delete(id);
      return undefined;
    }
    return { ...stats, cpuUsageNanoCores: this.#rate(id, stats) };
  }

  /** Of what was removed nobody asks any more, and a baseline as old as this is of no use to anybody. */
  #prune(): void {
    const now = BigInt(Date.now()) * 1_000_000n;
    if (now - this.#prunedNs < MAX_WINDOW_NS) return;
    this.#prunedNs = now;
    for (const [id, { timestampNs }] of this.#baselines) if (now - timestampNs > MAX_WINDOW_NS) this.#baselines.delete(id);
  }

  #rate(id: string, { timestampNs, cpuUsageNs }: CgroupStats): bigint | undefined {
    const before = this.#baselines.get(id);
    const window = before === undefined ? 0n : timestampNs - before.timestampNs;
    if (before !== undefined && window >= 0n && window < MIN_WINDOW_NS) return before.nanoCores;
    const used = before === undefined ? -1n : cpuUsageNs - before.cpuUsageNs;
    // A clock set back, or a container started again in a new cgroup, begins anew.
    const nanoCores = used < 0n || window < 0n || window > MAX_WINDOW_NS ? undefined : (used * 1_000_000_000n) / window;
    this.#baselines.set(id, { timestampNs, cpuUsageNs, nanoCores });
    return nanoCores;
  }
}
