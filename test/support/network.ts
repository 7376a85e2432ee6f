import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Daemon, removePods, startDaemon } from './daemon.ts';
import { BUSYBOX } from './images.ts';
import { until } from './wait.ts';

export interface Conflist {
  name: string;
  plugins: Record<string, unknown>[];
}

/** The daemon's network as its file has it. */
export class NetworkFile {
  readonly #daemon: Daemon;
  readonly #path: string;
  readonly #original: string;

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
    this.#path = join(daemon.networkDir, '10-test.conflist');
    this.#original = readFileSync(this.#path, 'utf8');
  }

  /** Replaces it by a change of the original, as a network's agent does, and waits until the daemon has seen it. */
  async change(change: (conf: Conflist) => void): Promise<void> {
    const conf = JSON.parse(this.#original) as Conflist;
    change(conf);
    await this.#replace(JSON.stringify(conf), conf);
  }

  /** Puts the original back where it was changed. */
  async restore(): Promise<void> {
    if (readFileSync(this.#path, 'utf8') !== this.#original) await this.#replace(this.#original, JSON.parse(this.#original) as Conflist);
  }

  async #replace(text: string, { name, plugins }: Conflist): Promise<void> {
    writeFileSync(`${this.#path}.new`, text);
    renameSync(`${this.#path}.new`, this.#path);
    const types = plugins.map(({ type }) => type);
    await until('the new network', async () => {
      const { info } = await this.#daemon.cri.Status({ verbose: true });
      const { networks } = JSON.parse(info.cni ?? '{}') as { networks: { name: string; plugins: string[] }[] };
      return networks.length === 1 && networks[0]?.name === name && JSON.stringify(networks[0].plugins) === JSON.stringify(types);
    });
  }
}

/** A daemon whose plugins have five seconds each, with an image for pods that serve something. */
export function startNetworkDaemon(registry: string): Promise<Daemon> {
  const network = { cni_add_timeout: '5s', cni_del_timeout: '5s', cni_del_give_up: '24h' };
  return startDaemon({ handler: 'crun', registry, config: { network }, images: [BUSYBOX] });
}

/** Makes it as it was when it had started: no pod, no fault, the original network. */
export async function restore(daemon: Daemon, network: NetworkFile): Promise<void> {
  daemon.faults.clear();
  await network.restore();
  await removePods(daemon);
}

/** What a verbose PodSandboxStatus says of a pod's network. */
export interface PodInfo {
  readonly network: {
    readonly networks: { readonly name: string; readonly ifName: string; readonly result: { readonly ips: unknown[] } }[];
    failing?: unknown;
  };
  readonly timeline: { readonly step: string; readonly ms: number; readonly error?: string }[];
}

export async function inspect({ cri }: Daemon, pod_sandbox_id: string): Promise<PodInfo> {
  return JSON.parse((await cri.PodSandboxStatus({ pod_sandbox_id, verbose: true })).info.info ?? '{}') as PodInfo;
}

/** The pinned network namespace of a pod. */
export function netnsOf({ directory }: Daemon, podId: string): string {
  return join(directory, 'ns/netns', `berth-${podId}`);
}
