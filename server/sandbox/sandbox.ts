import type { ObjectId } from '#base/id.ts';
import type { ProcessIdentity } from '#base/process.ts';
import type { Attachment } from '../../cni/cni.ts';
import type { PodSandboxConfig } from '../../proto/cri.ts';
import type { CreationKey } from '../creation.ts';
import type { DetachFailure } from './network.ts';
import type { TimelineEntry } from './timeline.ts';

/**
 * A pod sandbox goes
 *
 *     creating ──► ready ──► notReady ──► (removed)
 *         └──────────────────────┴─► (undone)
 *
 * `creating` is seen by nobody and is undone after a crash. `notReady` begins with the first StopPodSandbox, with the
 * end of the pause process, or with a reboot; its network may still have to be taken down (`attachment`).
 */
export type SandboxState = 'creating' | 'ready' | 'notReady';

/** Paths of the pinned namespaces; one that is absent is the node's. */
export interface PinnedNamespaces {
  readonly net?: string;
  readonly ipc?: string;
  readonly uts?: string;
  readonly user?: string;
}

/** All that Berth knows of a pod sandbox, as written to disk. It names each resource before the resource is made. */
export interface SandboxRecord {
  readonly id: ObjectId;
  /** Hash of the request, to tell a retry from a different pod of the same name. */
  readonly fingerprint: string;
  readonly config: PodSandboxConfig;
  /** As asked for; empty for the default. */
  readonly runtimeHandler: string;
  /** The `[runtime.runtimes.NAME]` table in use. */
  readonly handler: string;
  /** Nanoseconds since the epoch. */
  readonly createdAt: string;
  readonly state: SandboxState;
  /** False while nobody has been told of it: it is in no list until a retry or a call by its id claims it. */
  readonly claimed: boolean;
  /** When it was finished without anyone to tell, in milliseconds since the epoch. */
  readonly unclaimedSince?: number;
  /** A stop has begun and has to be carried through; or nothing is left but the record and the containers' remains. */
  readonly stop?: 'asked' | 'done';
  readonly namespaces: PinnedNamespaces;
  /** The CNI attachment: from before ADD until DEL has succeeded. */
  readonly attachment?: Attachment;
  /** How CNI DEL fails; absent while it does not. */
  readonly detach?: DetachFailure;
  /** How the pod came up. */
  readonly timeline?: readonly TimelineEntry[];
  readonly ips: readonly string[];
  /** Absent where the pause process was left out, and before it is there. */
  readonly pause?: { readonly init: ProcessIdentity; readonly monitor: ProcessIdentity };
  /** Of its containers and their files (`s0:c1,c2`), empty under a policy without levels; absent where it was made without labels. */
  readonly selinuxLevel?: string;
  readonly hasPause: boolean;
  /** Id of the pause image; absent for the built-in pause. */
  readonly pauseImage?: string;
  /** Path of the pause process's cgroup below the hierarchy. */
  readonly cgroup: string;
  /** Path of the pod's cgroup, which holds those of its containers. */
  readonly cgroupParent: string;
  /** The topmost level of it that was not there before this pod: it goes with the pod when it is empty. */
  readonly madeCgroupFrom?: string;
}

/** The pod as people know it: `namespace/name`. */
export function podName(config: PodSandboxConfig): string {
  return `${config.metadata?.namespace}/${config.metadata?.name}`;
}

/** A pod of one uid is made once per attempt. */
export function sandboxKey(config: PodSandboxConfig): CreationKey {
  const { namespace = '', name = '', uid = '', attempt = 0 } = config.metadata ?? {};
  const family = `${namespace}/${name}/${uid}`;
  return { family, attempt, key: `${family}/${attempt}` };
}
