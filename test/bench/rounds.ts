// What is measured of one runtime: each call in turn, then many pods at once, memory and CPU beside it.
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { NamespaceMode } from '../../proto/cri.ts';
import type { Peer } from './peer.ts';

export const IMAGE = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';

/** Samples in milliseconds by what was timed, and single figures by name. */
export interface Measured {
  readonly samples: Map<string, number[]>;
  readonly figures: Map<string, number[]>;
}

export function measured(): Measured {
  return { samples: new Map(), figures: new Map() };
}

export function add(to: Map<string, number[]>, key: string, value: number): void {
  to.set(key, [...(to.get(key) ?? []), value]);
}

let serial = 0;

export function podConfig(peer: Peer, logs: string) {
  serial += 1;
  const name = `p${serial}`;
  return {
    metadata: { name, namespace: 'bench', uid: `${process.pid}-${serial}`, attempt: 0 },
    hostname: name,
    log_directory: logs,
    labels: {},
    linux: {
      cgroup_parent: peer.cgroup,
      security_context: { namespace_options: { pid: NamespaceMode.CONTAINER, network: NamespaceMode.POD, ipc: NamespaceMode.POD } },
    },
  };
}

const containerConfig = (name: string, command: readonly string[]) => ({
  metadata: { name: 'c', attempt: 0 },
  image: { image: IMAGE },
  command,
  log_path: `${name}.log`,
  linux: {
    resources: { cpu_shares: '102', memory_limit_in_bytes: String(64 * 1024 ** 2) },
    security_context: { namespace_options: { pid: NamespaceMode.CONTAINER } },
  },
});

/** A pod with its one container. */
export interface UpPod {
  readonly pod: string;
  readonly container: string;
}

/** A pod with a container, which sleeps unless told. */
export async function podUp({ cri }: Peer, config: ReturnType<typeof podConfig>, command = ['sleep', '100000']): Promise<UpPod> {
  const { pod_sandbox_id: pod } = await cri.RunPodSandbox({ config, runtime_handler: 'crun' });
  const { container_id: container } = await cri.CreateContainer({
    pod_sandbox_id: pod,
    config: containerConfig(config.metadata.name, command),
    sandbox_config: config,
  });
  await cri.StartContainer({ container_id: container });
  return { pod, container };
}

export async function podDown({ cri }: Peer, { pod, container }: UpPod): Promise<void> {
  await cri.StopContainer({ container_id: container, timeout: '0' });
  await cri.RemoveContainer({ container_id: container });
  await cri.StopPodSandbox({ pod_sandbox_id: pod });
  await cri.RemovePodSandbox({ pod_sandbox_id: pod });
}

/** One pod after the other: up, a command in it, down. The first `warm` are not counted. */
export async function measureSingle(peer: Peer, { pods, warm }: { readonly pods: number; readonly warm: number }, into: Measured): Promise<void> {
  const { cri } = peer;
  const logs = join(peer.directory, 'logs');
  await mkdir(logs, { recursive: true });
  for (let index = 0; index < warm + pods; index += 1) {
    const time = async (key: string, work: () => Promise<unknown>): Promise<void> => {
      const began = performance.now();
      await work();
      if (index >= warm) add(into.samples, key, performance.now() - began);
    };
    const config = podConfig(peer, logs);
    let pod = '';
    let container = '';
    await time('pod-up', async () => {
      ({ pod, container } = await podUp(peer, config));
    });
    await time('ExecSync, 1 pod', () => cri.ExecSync({ container_id: container, cmd: ['true'], timeout: '10' }));
    await time('pod-down', () => podDown(peer, { pod, container }));
  }
}

/** Many pods, some at a time; then lists, statuses and execs with all of them there; then down again. */
export async function measureMany(
  peer: Peer,
  { pods, atOnce, calls }: { readonly pods: number; readonly atOnce: number; readonly calls: number },
  into: Measured,
): Promise<void> {
  const { cri, pid } = peer;
  const logs = join(peer.directory, 'logs');
  const before = helpers();
  const cpuBefore = cpuMs(pid);
  const began = performance.now();
  const up: { pod: string; container: string }[] = [];
  await inParallel(pods, atOnce, async () => {
    up.push(await podUp(peer, podConfig(peer, logs)));
  });
  add(into.figures, 'pods per second', pods / ((performance.now() - began) / 1000));
  add(into.figures, 'daemon CPU per pod', (cpuMs(pid) - cpuBefore) / pods);
  for (let index = 0; index < calls; index += 1) {
    const { container } = up[index % up.length] as (typeof up)[number];
    for (const [key, work] of [
      [`ListContainers, ${pods} pods`, () => cri.ListContainers()],
      [`ListPodSandbox, ${pods} pods`, () => cri.ListPodSandbox()],
      [`ContainerStatus, ${pods} pods`, () => cri.ContainerStatus({ container_id: container })],
      [`ExecSync, ${pods} pods`, () => cri.ExecSync({ container_id: container, cmd: ['true'], timeout: '10' })],
    ] as const) {
      const started = performance.now();
      await work();
      add(into.samples, key, performance.now() - started);
    }
  }
  await sleep(3_000);
  add(into.figures, 'daemon PSS with the pods', pssKib(pid) / 1024);
  add(into.figures, 'helpers PSS per pod', (helpers() - before) / pods / 1024);
  await inParallel(pods, atOnce, async () => {
    const { pod, container } = up.pop() as (typeof up)[number];
    await cri.StopContainer({ container_id: container, timeout: '0' });
    await cri.StopPodSandbox({ pod_sandbox_id: pod });
    await cri.RemovePodSandbox({ pod_sandbox_id: pod });
  });
}

/** The daemon with nothing to do. */
export async function measureIdle({ pid, startMs }: Peer, seconds: number, into: Measured): Promise<void> {
  add(into.figures, 'start to READY', startMs);
  add(into.figures, 'daemon PSS idle', pssKib(pid) / 1024);
  const before = cpuMs(pid);
  await sleep(seconds * 1000);
  add(into.figures, 'daemon CPU idle', ((cpuMs(pid) - before) / (seconds * 1000)) * 100);
}

async function inParallel(count: number, atOnce: number, work: () => Promise<void>): Promise<void> {
  let left = count;
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (left > 0) {
        left -= 1;
        await work();
      }
    }),
  );
}

/** Proportional set size: what of the memory is the process's own, with shared pages divided among those that share them. */
export function pssKib(pid: number): number {
  return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))?.[1] ?? 0);
}

/** Own CPU time, user and system, without that of children. */
export function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ') ?? [];
  const TICK_MS = 10;
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

/** Memory of all monitors, shims and pauses on the machine, in KiB. */
function helpers(): number {
  let sum = 0;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const program = readFileSync(`/proc/${name}/cmdline`, 'latin1').split('\0')[0]?.split('/').at(-1) ?? '';
      if (/^(conmon|containerd-shim.*|pause|catatonit)$/.test(program)) sum += pssKib(Number(name));
    } catch {
      // ended meanwhile
    }
  }
  return sum;
}
