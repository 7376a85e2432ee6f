import type { ContainerConfig, Init, LinuxContainerSecurityContext } from '../../proto/cri.ts';
import { exited } from './calls.ts';
import type { Daemon } from './daemon.ts';
import { makeContainer, type Pod, readLog } from './pod.ts';

/** What a test wants otherwise than an ordinary container has it; mounts are added to the ordinary ones. */
export type Change = Init<ContainerConfig>;

/** Containers of one pod, each of a name of its own, ordinary but for a change of their config and their security context. */
export class MadeContainers {
  readonly #daemon: Daemon;
  readonly #pod: Pod;
  readonly #podId: string;
  #count = 0;

  constructor(daemon: Daemon, pod: Pod, podId: string) {
    this.#daemon = daemon;
    this.#pod = pod;
    this.#podId = podId;
  }

  /** CreateContainer; gives the id. */
  async create(change: Change, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    this.#count += 1;
    const plain = makeContainer(this.#pod, { name: `c${this.#count}` });
    const linux = { ...plain.linux, security_context: { ...plain.linux?.security_context, ...security } };
    const config = { ...plain, linux, ...change, mounts: [...(plain.mounts ?? []), ...(change.mounts ?? [])] };
    const { container_id } = await this.#daemon.cri.CreateContainer({ pod_sandbox_id: this.#podId, config, sandbox_config: this.#pod.config });
    return container_id;
  }

  /** CreateContainer and StartContainer; gives the id. */
  async start(change: Change, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    const container_id = await this.create(change, security);
    await this.#daemon.cri.StartContainer({ container_id });
    return container_id;
  }

  /** What a container has logged that has come to its end. */
  async logOf(change: Change, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    const { log_path } = await exited(this.#daemon, await this.start(change, security));
    return readLog(log_path)
      .map(({ text }) => text)
      .join('\n');
  }
}
