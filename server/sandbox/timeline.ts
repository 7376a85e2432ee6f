/** One step of a pod's life that has ended. */
export interface TimelineEntry {
  /** When it began, in milliseconds since the epoch. */
  readonly at: number;
  readonly step: string;
  readonly ms: number;
  /** Why it failed; absent when it did not. */
  readonly error?: string;
}

/** What happened to one pod, oldest first. It outlives the pod, so that one that could not be made can be asked about. */
export interface Timeline {
  readonly id: string;
  /** `namespace/name`. */
  readonly pod: string;
  readonly entries: readonly TimelineEntry[];
}

/** More pods than a node has, with those that failed lately. */
const MAX_PODS = 1_000;

/** A pod whose network cannot be taken down is tried for ever; the first entries say how it came up. */
const MAX_ENTRIES = 60;
const KEPT_FIRST = 30;

/** The timelines of the pods seen last, in memory. */
export class Timelines {
  readonly #pods = new Map<string, { readonly pod: string; readonly entries: TimelineEntry[] }>();

  /** Begins a pod's timeline, or goes on with the one that its record has kept. */
  begin(id: string, pod: string, entries: readonly TimelineEntry[] = []): void {
    this.#pods.delete(id);
    this.#pods.set(id, { pod, entries: [...entries] });
    for (const oldest of this.#pods.keys()) {
      if (this.#pods.size <= MAX_PODS) break;
      this.#pods.delete(oldest);
    }
  }

  /** A pod without a timeline is passed over: its time is past. */
  add(id: string, entry: TimelineEntry): void {
    const entries = this.#pods.get(id)?.entries;
    if (entries === undefined) return;
    entries.push(entry);
    if (entries.length > MAX_ENTRIES) entries.splice(KEPT_FIRST, 1);
  }

  get(id: string): Timeline | undefined {
    const found = this.#pods.get(id);
    return found === undefined ? undefined : { id, ...found };
  }

  /** All of them, in the order in which they began. */
  all(): Timeline[] {
    return [...this.#pods].map(([id, found]) => ({ id, ...found }));
  }
}
