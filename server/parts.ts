import { type CriError, describeError } from '#base/errors.ts';
import type { ObjectId } from '#base/id.ts';
import type { Locks } from '#base/lock.ts';
import type { Log } from '#base/log.ts';
import type { Cni } from '../cni/cni.ts';
import type { Storage } from '../storage/storage.ts';
import type { Config } from './config.ts';
import type { ContainerRecord } from './container/container.ts';
import type { Deaths } from './container/deaths.ts';
import type { RunningStop } from './container/stop.ts';
import type { Cgroups } from './oci/cgroup.ts';
import type { MonitorCgroup } from './oci/cgroup-monitor.ts';
import type { HookDirectories } from './oci/hooks.ts';
import type { HostFacts } from './oci/host-facts.ts';
import type { OciRuntime, RuntimeFeatures } from './oci/runtime.ts';
import type { SelinuxLevels } from './oci/selinux-levels.ts';
import type { Records } from './records.ts';
import type { HostPorts } from './sandbox/host-ports.ts';
import type { LostAttachment } from './sandbox/network.ts';
import type { SandboxRecord } from './sandbox/sandbox.ts';
import type { Timelines } from './sandbox/timeline.ts';
import type { StreamUrls } from './stream/session.ts';

/** The steps of a pod's start that are timed. */
export type StartStage =
  | 'namespaces'
  | 'cni_add'
  | 'pause_create'
  | 'pause_start'
  | 'container_rootfs'
  | 'container_spec'
  | 'container_create'
  | 'container_start';

/**
 * The daemon's parts, built and wired by daemon.ts. A function of the domain takes a `Pick` of them with just what it
 * uses.
 */
export interface Parts {
  readonly config: Config;
  readonly log: Log;
  readonly storage: Storage;
  readonly cni: Cni;
  readonly sandboxes: Records<SandboxRecord>;
  readonly containers: Records<ContainerRecord>;
  /** By the name of their `[runtime.runtimes.NAME]` table. */
  readonly runtimes: ReadonlyMap<string, OciRuntime>;
  /** What each handler can do; same keys. */
  readonly features: ReadonlyMap<string, RuntimeFeatures>;
  /** Resolves once `features` has what a trial of the handler tells. */
  readonly tried: (handler: string) => Promise<void>;
  /** Networks of pods whose records were lost, by pod id. */
  readonly lost: Map<string, LostAttachment>;
  readonly hostPorts: HostPorts;
  readonly timelines: Timelines;
  /** OCI hooks for containers. */
  readonly hooks: Pick<HookDirectories, 'read'>;
  /** Why pods cannot have user namespaces, whatever their handler; `undefined` where they can. */
  readonly userNamespaceProblem: string | undefined;
  readonly cgroups: Cgroups;
  readonly monitors: MonitorCgroup;
  readonly host: HostFacts;
  /** Which pod has which SELinux level. */
  readonly selinuxLevels: SelinuxLevels;
  /** Where clients of exec, attach and port-forward connect. */
  readonly streams: StreamUrls;
  /** Who waits for the end of which process. */
  readonly deaths: Deaths;
  /** Containers whose creation is in flight: only it may take them down. */
  readonly making: Map<string, InTheMaking>;
  /** Stops under way, by container id. */
  readonly stops: Map<string, RunningStop>;
  /** One queue per sandbox and per container id. */
  readonly locks: Locks;
  /** Ids that are being taken down, or could not be yet: in no list, tried again by the sweeper. */
  readonly doomed: Set<string>;
  readonly paths: Paths;
  /** The daemon's own signal: what outlives a call ends with it. */
  readonly signal: AbortSignal;
  readonly newId: () => ObjectId;
  /** Nanoseconds since the epoch, never the same twice, in decimal. */
  readonly now: () => string;
  /** Runs work that outlives its call; failures are logged, the daemon's stop waits for it. */
  readonly background: (name: string, work: () => Promise<void>) => void;
  /** Logs a warning the first time it is given this key. */
  readonly once: (key: string, fields: Readonly<Record<string, unknown>>, message: string) => void;
  readonly observeStage: (stage: StartStage, seconds: number) => void;
  readonly observeOom: () => void;
  readonly observeDetachFailure: () => void;
}

/** An object that is being made. */
export interface InTheMaking {
  /** Ends the creation, with this for an answer. */
  readonly abort: (reason: CriError) => void;
  /** Resolves when it has ended, and undone itself if it failed. */
  readonly done: Promise<void>;
}

/** Where things lie below root and runroot. */
export interface Paths {
  /** Exit files, named by container id. */
  readonly exits: string;
  /** The root file system of the built-in pause: one for all pods, read-only. */
  readonly pauseRootfs: string;
  /** Removed records with what they held, and removed bundles, until the sweeper deletes them. */
  readonly trash: string;
  readonly bundleTrash: string;
  /** `config.json`, `rootfs`, conmon's sockets and pid files of a container or of a sandbox's pause process. */
  bundle(id: string): string;
  /** One directory for each command with a terminal: its monitor's sockets. */
  readonly execs: string;
}

/** Times one step of a pod's start, for the metrics and the pod's own timeline; `of` says of which container. */
export async function timed<T>(
  parts: Pick<Parts, 'observeStage' | 'timelines'>,
  stage: StartStage,
  work: () => Promise<T>,
  { podId, of = '' }: { readonly podId: string; readonly of?: string },
): Promise<T> {
  const at = Date.now();
  const started = performance.now();
  const step = `${stage.replace('_', ' ')}${of === '' ? '' : ` of ${of}`}`;
  try {
    const result = await work();
    const ms = performance.now() - started;
    parts.observeStage(stage, ms / 1000);
    parts.timelines.add(podId, { at, step, ms });
    return result;
  } catch (err) {
    parts.timelines.add(podId, { at, step, ms: performance.now() - started, error: describeError(err) });
    throw err;
  }
}
