import { sleep } from '#base/abort.ts';
import { isAlive } from '#base/process.ts';
import { type ContainerRecord, processesOf } from './container/container.ts';
import { undoContainer } from './container/create.ts';
import { noteEnd, releaseEnded } from './container/end.ts';
import { workloadOf } from './container/take-down.ts';
import { killWorkload } from './container/workload.ts';
import type { Parts } from './parts.ts';
import { emptyTrash } from './records.ts';
import { detachLost } from './sandbox/network.ts';
import type { SandboxRecord } from './sandbox/sandbox.ts';
import { stopSandbox } from './sandbox/stop.ts';
import { takeDownSandbox } from './sandbox/take-down.ts';

/** Between two looks at everything, in milliseconds: two small reads in /proc for each container. */
const LOOK_MS = 5_000;

/** What fails is tried again after so long, doubled each time up to the second figure. */
const RETRY_MS = 5_000;
const MAX_RETRY_MS = 300_000;

/** So long a dead container's monitor may take to write the exit file. */
const EXIT_FILE_MS = 10_000;

/**
 * Looks after what no event tells of, until `signal` ends it: processes that died unseen, what nobody claimed, and what
 * could not be taken down or off its network yet.
 */
export class Sweeper {
  readonly #parts: Parts;
  readonly #retries = new Map<string, { atMs: number; delayMs: number }>();
  readonly #missing = new Map<string, number>();
  #emptying = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async run(signal: AbortSignal): Promise<void> {
    // The first look is at once: a reboot leaves addresses taken that new pods need.
    for (; !signal.aborted; await sleep(LOOK_MS, signal).catch(() => {})) {
      try {
        await this.look();
      } catch (err) {
        this.#parts.log.error({ err }, 'Failed sweep');
      }
    }
  }

  /** One round. An object that cannot be looked after does not keep the others from it. */
  async look(): Promise<void> {
    const { sandboxes, containers, doomed, lost } = this.#parts;
    this.#emptyTrash(); // first: where the disk is full all else waits for it
    for (const { id } of [...containers.values()]) await this.#alone(id, () => this.#lookAtContainer(id));
    for (const id of [...lost.keys()]) this.#retry(id, 'take lost pod off its network', () => detachLost(this.#parts, id));
    for (const { id } of [...sandboxes.values()]) await this.#alone(id, async () => this.#lookAtSandbox(id));
    for (const id of this.#retries.keys())
      if (!doomed.has(id) && !lost.has(id) && sandboxes.get(id) === undefined && containers.get(id) === undefined) this.#retries.delete(id);
    for (const id of this.#missing.keys()) if (containers.get(id) === undefined) this.#missing.delete(id);
  }

  async #alone(id: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (err) {
      this.#parts.log.error({ err, containerId: id }, 'Failed to look after object');
    }
  }

  /** What was removed since the last round; a large one may take longer than a round. */
  #emptyTrash(): void {
    if (this.#emptying) return;
    this.#emptying = true;
    const { paths, signal, background } = this.#parts;
    background('empty trash', async () => {
      const emptied = await Promise.allSettled([emptyTrash(paths.trash, signal), emptyTrash(paths.bundleTrash, signal)]);
      this.#emptying = false;
      for (const result of emptied) if (result.status === 'rejected') throw result.reason;
    });
  }

  async #lookAtContainer(id: string): Promise<void> {
    const parts = this.#parts;
    const container = parts.containers.get(id);
    if (container === undefined || parts.making.has(id)) return;
    if (parts.doomed.has(id)) {
      this.#retry(id, 'undo container', () => undoContainer(parts, id, 'an earlier attempt failed'));
      return;
    }
    if (this.#isForgotten(container)) {
      this.#retry(id, 'undo container', () => undoContainer(parts, id, 'nobody claimed it'));
      return;
    }
    if (container.state.name === 'exited' && container.released !== true) this.#retry(id, 'release container', () => releaseEnded(parts, id));
    const processes = processesOf(container.state);
    if (processes === undefined) return;
    if (!isAlive(processes.init)) await this.#lookForEnd(id, isAlive(processes.monitor));
    else if (!isAlive(processes.monitor)) this.#retry(id, 'end container without monitor', () => this.#endWithoutMonitor(container));
  }

  /** Its log is lost and no exit code will come: the kubelet can only help by starting a new one. */
  async #endWithoutMonitor(container: ContainerRecord): Promise<void> {
    const { id, sandboxId } = container;
    await killWorkload(this.#parts, workloadOf(container), AbortSignal.any([this.#parts.signal, AbortSignal.timeout(30_000)]));
    this.#parts.log.warn({ containerId: id, sandboxId }, 'Killed container whose monitor died');
    await noteEnd(this.#parts, id, {
      exitCode: 137,
      reason: 'Error',
      message: 'killed by berth: its monitor (conmon) had died, so its output and exit code were lost',
    });
  }

  async #lookForEnd(id: string, monitorLives: boolean): Promise<void> {
    await noteEnd(this.#parts, id);
    const state = this.#parts.containers.get(id)?.state;
    if (state === undefined || processesOf(state) === undefined) return;
    const since = this.#missing.get(id) ?? Date.now();
    this.#missing.set(id, since);
    if (monitorLives && Date.now() - since < EXIT_FILE_MS) return;
    await noteEnd(this.#parts, id, {
      exitCode: 255,
      reason: 'Unknown',
      message: 'ended without leaving an exit code: its monitor (conmon) died or was killed',
    });
  }

  #lookAtSandbox(id: string): void {
    const parts = this.#parts;
    const sandbox = parts.sandboxes.get(id);
    if (sandbox === undefined) return;
    const { state, pause, hasPause, attachment, claimed, stop } = sandbox;
    if (parts.doomed.has(id)) this.#retry(id, 'undo sandbox', () => takeDownSandbox(parts, id, { reason: 'an earlier attempt failed' }));
    else if (this.#isForgotten(sandbox)) this.#retry(id, 'undo sandbox', () => takeDownSandbox(parts, id, { reason: 'nobody claimed it' }));
    else if (state === 'ready' && hasPause && pause !== undefined && !isAlive(pause.init)) notePauseEnd(parts, id);
    else if (state === 'notReady' && claimed && (stop === 'asked' || (attachment !== undefined && !this.#hasLiving(id)))) {
      // Begun and not finished, or nobody is left to use the network. A pod that only lost its pause is the kubelet's to stop.
      this.#retry(id, 'stop sandbox', () => stopSandbox(parts, id, parts.signal));
    }
  }

  #hasLiving(sandboxId: string): boolean {
    return [...this.#parts.containers.values()].some((container) => container.sandboxId === sandboxId && processesOf(container.state) !== undefined);
  }

  #isForgotten({ claimed, unclaimedSince }: SandboxRecord | ContainerRecord): boolean {
    return !claimed && unclaimedSince !== undefined && Date.now() - unclaimedSince > this.#parts.config.runtime.unclaimedTimeoutMs;
  }

  /** In the background, when its time has come; the next time comes later. */
  #retry(id: string, name: string, work: () => Promise<void>): void {
    const { atMs, delayMs } = this.#retries.get(id) ?? { atMs: 0, delayMs: RETRY_MS };
    if (Date.now() < atMs || this.#parts.locks.isBusy(id)) return;
    this.#retries.set(id, { atMs: Date.now() + delayMs, delayMs: Math.min(delayMs * 2, MAX_RETRY_MS) });
    this.#parts.background(name, work);
  }
}

/** A pod whose pause process is gone has lost what holds it together: the kubelet makes a new one. */
export function notePauseEnd(parts: Pick<Parts, 'sandboxes' | 'log' | 'background' | 'locks'>, id: string): void {
  const sandbox = parts.sandboxes.get(id);
  if (sandbox?.state !== 'ready' || parts.locks.isBusy(id)) return;
  parts.log.warn({ sandboxId: id }, 'Noticed that a pause process had ended');
  parts.background('note end of pause', async () => {
    await parts.sandboxes.update(id, (old) => (old.state === 'ready' ? { ...old, state: 'notReady' } : undefined));
  });
}
