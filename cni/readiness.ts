import { orAborted } from '#base/abort.ts';
import { describeError } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import { speaks } from './conf.ts';
import type { Network } from './load.ts';
import type { Networks } from './networks.ts';

export interface ReadinessOptions {
  readonly networks: Networks;
  /** Runs STATUS on all plugins of a network; rejects where one of them cannot serve ADD. */
  readonly ask: (network: Network) => Promise<void>;
  /** See `cni_status_grace_period`. */
  readonly graceMs: number;
  readonly log: Log;
  readonly now?: () => number;
}

/** Between two STATUS until one has succeeded, and after that. */
const EAGER_MS = 500;
const CALM_MS = 5_000;

/**
 * Whether pods can be put on the network: the files have one, its plugins are there and, from CNI 1.1 on, say by STATUS
 * that they can serve. A network whose plugins fail for no longer than the grace period still counts as ready to the
 * node, so that an upgrade of the network's agent evicts nobody; a new pod waits all the same.
 */
export class Readiness implements AsyncDisposable {
  readonly #networks: Networks;
  readonly #ask: (network: Network) => Promise<void>;
  readonly #log: Log;
  readonly #now: () => number;
  #graceMs: number;
  /** Why STATUS failed last; `undefined` when it succeeded, or nobody is asked. */
  #failing: string | undefined;
  /** The networks that the last STATUS was about, in JSON. */
  #asked = '';
  #lastGoodMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> = Promise.resolve();
  #again = false;
  #busy = false;
  #closed = false;
  #next = Promise.withResolvers<void>();

  constructor({ networks, ask, graceMs, log, now = () => performance.now() }: ReadinessOptions) {
    this.#networks = networks;
    this.#ask = ask;
    this.#graceMs = graceMs;
    this.#log = log;
    this.#now = now;
    networks.onLook(() => this.#look());
    this.#look();
  }

  set graceMs(graceMs: number) {
    this.#graceMs = graceMs;
    this.#look();
  }

  /** Why the node's network is not ready; `undefined` when it is. */
  get why(): string | undefined {
    const now = this.whyNot();
    if (now === undefined || this.#networks.choice.network === undefined) return now;
    return this.#lastGoodMs !== undefined && this.#now() - this.#lastGoodMs <= this.#graceMs ? undefined : now;
  }

  /** Why no pod can be put on it at this moment. */
  whyNot(): string | undefined {
    const { choice } = this.#networks;
    if (choice.network === undefined) return choice.why;
    const wanted = networksToAsk(choice.networks);
    if (wanted.length === 0) return undefined;
    if (this.#asked !== JSON.stringify(wanted)) return `network ${choice.network.conf.name}: its plugins have not answered STATUS yet`;
    return this.#failing;
  }

  /** The networks for a pod, as soon as they are ready. `onWait` is told why it has to wait, and whenever that changes. */
  async wait(signal: AbortSignal, onWait: (why: string) => void): Promise<readonly [Network, ...Network[]]> {
    await this.#networks.fresh();
    for (let told = ''; ; ) {
      signal.throwIfAborted();
      const { networks } = this.#networks.choice;
      const why = this.whyNot();
      if (why === undefined && networks !== undefined) return networks;
      if (why !== undefined && why !== told) onWait(why);
      told = why ?? '';
      await orAborted(this.#next.promise, signal);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#looking;
  }

  /** Asks the plugins now, or once more when they are being asked. */
  #look(): void {
    if (this.#closed) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    clearTimeout(this.#timer);
    this.#looking = this.#askAll().finally(() => {
      this.#busy = false;
      this.#tell();
      if (this.#again) {
        this.#again = false;
        this.#look();
      } else if (!this.#closed) this.#schedule();
    });
  }

  #schedule(): void {
    if (networksToAsk(this.#networks.choice.networks ?? []).length === 0) return; // the next look at the files decides anew
    if (this.#failing === undefined && this.#graceMs === 0) return;
    this.#timer = setTimeout(() => this.#look(), this.#failing === undefined ? CALM_MS : EAGER_MS);
    this.#timer.unref();
  }

  async #askAll(): Promise<void> {
    const wanted = networksToAsk(this.#networks.choice.networks ?? []);
    const asked = JSON.stringify(wanted);
    // The files are looked at every few seconds; only a change of theirs is a reason to ask sooner.
    if (asked === this.#asked && this.#failing === undefined && this.#graceMs === 0) return;
    let failing: string | undefined;
    try {
      for (const network of wanted) await this.#ask(network);
    } catch (err) {
      failing = describeError(err);
    }
    if (failing === undefined) this.#lastGoodMs = this.#now();
    if (failing !== this.#failing && wanted.length > 0) {
      if (failing === undefined) this.#log.info({ network: wanted[0]?.conf.name }, 'Pod network became ready');
      else this.#log.warn({ network: wanted[0]?.conf.name, reason: failing }, 'Pod network is not ready');
    }
    this.#failing = failing;
    this.#asked = asked;
  }

  #tell(): void {
    const { resolve } = this.#next;
    this.#next = Promise.withResolvers<void>();
    resolve();
  }
}

/** STATUS came with CNI 1.1. */
function networksToAsk(networks: readonly Network[]): readonly Network[] {
  return networks.filter(({ conf }) => speaks(conf.cniVersion, '1.1.0'));
}
