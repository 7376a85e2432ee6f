import type { Log } from '#base/log.ts';
import type { AccessFiles } from './access.ts';
import type { RegistryAuth } from './auth.ts';
import type { ImageId } from './digest.ts';
import type { CheckFinding } from './finding.ts';
import type { UnpackLimits } from './jobs.ts';
import type { PullObserver } from './pull.ts';

/** What may change while the store is open. */
export interface StorageSettings extends AccessFiles {
  /** Layers that are downloaded at once, of all pulls together; at most `MAX_DOWNLOADS`. */
  readonly maxParallelDownloads: number;
  /** A connection that makes no progress for so long ends its pull. */
  readonly pullProgressTimeoutMs: number;
  /** Patterns, see `matchesPin`. */
  readonly pinnedImages: readonly string[];
}

export interface StorageOptions extends StorageSettings {
  /** Everything lies below it, on one file system. */
  readonly root: string;
  readonly log: Log;
  /** HTTPS_PROXY, HTTP_PROXY and NO_PROXY for the pulls; default none. */
  readonly proxyEnv?: Readonly<Record<string, string>>;
  /** Certificates of registries, in a directory for each host; default where containers-certs.d(5) has them. */
  readonly certificates?: readonly string[];
  /**
   * Names who uses an image, such as `container <id>`: it is not removed then. Asked at the moment of a removal, so that a
   * user whose record is written before the image is mounted never loses it.
   */
  usedBy?(image: ImageId): string | undefined;
  /** What a single layer may come to. Default 256 GiB and 20 million files: no image comes near, a bomb ends there. */
  readonly limits?: UnpackLimits;
  readonly observe?: PullObserver & { found?(kind: CheckFinding['kind']): void };
}

/** What a directory or the whole store takes on disk. */
export interface Usage {
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

export interface PullOptions {
  readonly auth?: RegistryAuth;
  /** The runtime handler that the image is for; empty for the default. */
  readonly handler?: string;
  /** Of the pod that wants it, for its signature policy. */
  readonly namespace?: string;
}
