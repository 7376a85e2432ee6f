import { CriError } from '#base/errors.ts';
import type { ObjectId } from '#base/id.ts';
import type { ProcessIdentity } from '#base/process.ts';
import type { ContainerMetadata, ImageSpec, LinuxContainerResources, Mount, Signal } from '../../proto/cri.ts';
import type { CreationKey } from '../creation.ts';

/**
 * A container goes
 *
 *     creating ──► created ──► running ──► exited ──► (removed)
 *         │            └───────────────────►┘
 *         └─► (undone)
 *
 * Times are nanoseconds since the epoch, in decimal.
 */
export type ContainerState =
  | { readonly name: 'creating' }
  | { readonly name: 'created'; readonly init: ProcessIdentity; readonly monitor: ProcessIdentity }
  | { readonly name: 'running'; readonly init: ProcessIdentity; readonly monitor: ProcessIdentity; readonly startedAt: string }
  | {
      readonly name: 'exited';
      /** `0` when it was never started. */
      readonly startedAt: string;
      readonly finishedAt: string;
      readonly exitCode: number;
      /** `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`. */
      readonly reason: string;
      readonly message: string;
    };

const next = {
  creating: ['created'],
  created: ['running', 'exited'],
  running: ['exited'],
  exited: [],
} as const satisfies Record<ContainerState['name'], readonly ContainerState['name'][]>;

/** The new state, if the table of moves allows it. @throws {CriError} failedPrecondition. */
export function move(id: string, from: ContainerState, to: ContainerState): ContainerState {
  if ((next[from.name] as readonly string[]).includes(to.name)) return to;
  throw new CriError('failedPrecondition', `container ${id} is ${from.name} and cannot become ${to.name}`);
}

/** All that Berth knows of a container, as written to disk. It names each resource before the resource is made. */
export interface ContainerRecord {
  readonly id: ObjectId;
  readonly sandboxId: ObjectId;
  /** Hash of the request without what a kubelet changes between retries. */
  readonly fingerprint: string;
  readonly metadata: ContainerMetadata;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly handler: string;
  readonly createdAt: string;
  readonly state: ContainerState;
  readonly claimed: boolean;
  readonly unclaimedSince?: number;
  /** As the caller wrote it. */
  readonly image: ImageSpec;
  /** Id of the image in the store. */
  readonly imageId: string;
  /** Ids of the images that are mounted into it as volumes; those too must stay in the store. */
  readonly imageVolumes?: readonly string[];
  /** `repository@digest`, or the id where the image has no digest. */
  readonly imageRef: string;
  /** Absolute; empty when the pod has no log directory. */
  readonly logPath: string;
  /** The log file was not there before, so undoing the creation removes it. */
  readonly madeLog: boolean;
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** The CRI's name of the signal in use. */
  readonly stopSignal: Signal;
  /** The signal in use, as a number. */
  readonly stopSignalNumber: number;
  readonly mounts: readonly Mount[];
  readonly resources: LinuxContainerResources | null;
  readonly user: { readonly uid: number; readonly gid: number; readonly supplementalGroups: readonly number[] };
  readonly privileged: boolean;
  /** Its own SELinux level, where it has another one than its pod. */
  readonly selinuxLevel?: string;
  /** Path of its cgroup below the hierarchy. */
  readonly cgroup: string;
  /** `Cgroups.lostOomKills` when it was started, and what its neighbours have added since: more than that are its own. */
  readonly lostOomKills?: number;
  /** `Cgroups.ownOoms` of the pod when it was started. */
  readonly podOoms?: number;
  /** What it held beyond its life was given back. Known in memory alone: giving back twice does no harm. */
  readonly released?: boolean;
}

/** First process and monitor of a container that has them. */
export function processesOf(state: ContainerState): { readonly init: ProcessIdentity; readonly monitor: ProcessIdentity } | undefined {
  return state.name === 'created' || state.name === 'running' ? state : undefined;
}

/** A container of one name is made once per attempt in its pod. */
export function containerKey(sandboxId: string, { metadata }: { readonly metadata: ContainerMetadata | null }): CreationKey {
  const { name = '', attempt = 0 } = metadata ?? {};
  const family = `${sandboxId}/${name}`;
  return { family, attempt, key: `${family}/${attempt}` };
}
