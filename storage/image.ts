import type { ChainId, ImageId } from './digest.ts';

/** What an image says about the process to run in it: the `config` object of an OCI or Docker image config. */
export interface ImageConfig {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `NAME=value`, in the image's order. */
  readonly env: readonly string[];
  /** `user`, `uid`, `user:group` or empty. */
  readonly user: string;
  readonly workingDir: string;
  /** A name (`SIGTERM`) or number as the image spells it; empty where it says nothing. */
  readonly stopSignal: string;
  /** Absolute paths. */
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

/** A whole image in the store. Immutable: a change of its names makes a new object. */
export interface Image {
  readonly id: ImageId;
  /** `registry.k8s.io/pause:3.9`; empty when every tag has moved on to another image. */
  readonly repoTags: readonly string[];
  /** `registry.k8s.io/pause@sha256:…`: the manifest or index as it was pulled by that name. */
  readonly repoDigests: readonly string[];
  /** The compressed layers and the config, in bytes: what a pull moves. Never 0. */
  readonly sizeBytes: number;
  readonly config: ImageConfig;
  /** Lowest first. */
  readonly layers: readonly ChainId[];
  /** One of its names matches the configured pins: the kubelet's garbage collection leaves it alone. */
  readonly pinned: boolean;
  readonly architecture: string;
  readonly os: string;
}
