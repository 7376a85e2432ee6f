// A runtime under test: Berth's bundle, or Debian's containerd, each on a root, sockets, bridge and subnet of its own.
import { spawn } from 'node:child_process';
import { openSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { run } from '#base/exec.ts';
import { type Cri, connectCri } from '../support/cri.ts';

const PROJECT = join(import.meta.dirname, '../..');

export interface Peer extends AsyncDisposable {
  readonly name: 'berth' | 'containerd';
  readonly cri: Cri;
  readonly pid: number;
  /** From the start of the process to its first answer, in milliseconds. */
  readonly startMs: number;
  readonly cgroup: string;
  readonly directory: string;
}

interface Plan {
  readonly name: Peer['name'];
  readonly directory: string;
  readonly socket: string;
  readonly command: readonly [string, ...string[]];
}

/** Starts Berth's bundle from dist/. */
export async function startBerth(registry: string): Promise<Peer> {
  const directory = await mkdtemp(join(tmpdir(), 'bb'));
  const socket = join(directory, 'r/berth.sock');
  await writeNetwork(join(directory, 'net.d'), directory, 'bbench0', '10.61.0.0/16');
  await writeFile(join(directory, 'registries.conf'), `[[registry]]\nprefix = "registry.k8s.io"\nlocation = "${registry}"\ninsecure = true\n`);
  await writeFile(
    join(directory, 'berth.conf'),
    [
      '[berth]',
      `root = ${directory}/root`,
      `runroot = ${directory}/r`,
      '[runtime]',
      'default_runtime = crun',
      'cgroup_manager = cgroupfs',
      `namespaces_dir = ${directory}/ns`,
      '[image]',
      `registries_conf = ${directory}/registries.conf`,
      '[network]',
      `network_dir = ${directory}/net.d`,
      '',
    ].join('\n'),
  );
  return start({ name: 'berth', directory, socket, command: [join(PROJECT, 'dist/berth'), 'daemon', '--config', join(directory, 'berth.conf')] });
}

/** Starts containerd with crun as its runtime, and with what it does not need for this switched off. */
export async function startContainerd(registry: string): Promise<Peer> {
  const directory = await mkdtemp(join(tmpdir(), 'bc'));
  const socket = join(directory, 'containerd.sock');
  await writeNetwork(join(directory, 'net.d'), directory, 'cbench0', '10.62.0.0/16');
  await mkdir(join(directory, 'certs.d/registry.k8s.io'), { recursive: true });
  await writeFile(
    join(directory, 'certs.d/registry.k8s.io/hosts.toml'),
    `server = "http://${registry}"\n[host."http://${registry}"]\n  capabilities = ["pull", "resolve"]\n`,
  );
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  await writeFile(
    join(directory, 'config.toml'),
    [
      'version = 2',
      `root = "${directory}/root"`,
      `state = "${directory}/state"`,
      'disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]',
      `[grpc]\naddress = "${socket}"`,
      `[debug]\naddress = "${directory}/debug.sock"`,
      `[plugins."io.containerd.internal.v1.opt"]\npath = "${directory}/opt"`,
      `[${cri}]\nsandbox_image = "registry.k8s.io/pause:3.9"\nstream_server_address = "127.0.0.1"\nstream_server_port = "0"\nrestrict_oom_score_adj = true\ndisable_apparmor = true`,
      `[${cri}.cni]\nbin_dir = "/usr/lib/cni"\nconf_dir = "${directory}/net.d"\nmax_conf_num = 1`,
      `[${cri}.registry]\nconfig_path = "${directory}/certs.d"`,
      `[${cri}.containerd]\nsnapshotter = "overlayfs"\ndefault_runtime_name = "crun"`,
      `[${cri}.containerd.runtimes.crun]\nruntime_type = "io.containerd.runc.v2"`,
      `[${cri}.containerd.runtimes.crun.options]\nBinaryName = "/usr/bin/crun"\nSystemdCgroup = false`,
      '',
    ].join('\n'),
  );
  return start({ name: 'containerd', directory, socket, command: ['containerd', '-c', join(directory, 'config.toml')] });
}

async function start({ name, directory, socket, command: [file, ...args] }: Plan): Promise<Peer> {
  const log = openSync(join(directory, 'log'), 'a');
  const began = performance.now();
  const child = spawn(file, args, { stdio: ['ignore', log, log], detached: true });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  // Not by calls that fail: grpc-js would wait longer before each attempt, and that time would be counted.
  while (!(await accepts(socket))) {
    if (child.exitCode !== null || performance.now() - began > 30_000) throw new Error(`${name} does not answer: see ${directory}/log`);
    await sleep(2);
  }
  const cri = connectCri(socket);
  await cri.Version({}, { deadlineMs: 30_000 });
  const startMs = performance.now() - began;
  return {
    name,
    cri,
    pid: child.pid ?? 0,
    startMs,
    cgroup: `/bench-${name}-${process.pid}`,
    directory,
    async [Symbol.asyncDispose]() {
      for (const { id } of (await cri.ListPodSandbox()).items) {
        await cri.StopPodSandbox({ pod_sandbox_id: id });
        await cri.RemovePodSandbox({ pod_sandbox_id: id });
      }
      cri.close();
      child.kill('SIGTERM');
      await ended;
      await cleanUp(name, directory);
    },
  };
}

function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}

async function writeNetwork(networkDir: string, directory: string, bridge: string, subnet: string): Promise<void> {
  await mkdir(networkDir, { recursive: true });
  const ipam = { type: 'host-local', dataDir: join(directory, 'ipam'), ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] };
  const plugins = [
    { type: 'bridge', bridge, isGateway: true, ipMasq: true, hairpinMode: true, ipam },
    { type: 'portmap', capabilities: { portMappings: true } },
  ];
  await writeFile(join(networkDir, '10-bench.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: bridge, plugins }));
}

async function cleanUp(name: Peer['name'], directory: string): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  const ignore = (): undefined => undefined;
  await run('ip', ['link', 'del', name === 'berth' ? 'bbench0' : 'cbench0'], { signal }).catch(ignore);
  await run('sh', ['-c', 'grep -F "$1/" /proc/self/mountinfo | cut -d" " -f5 | sort -r | xargs -r -n1 umount -l', 'sh', directory], { signal }).catch(ignore);
  await run('sh', ['-c', 'find /sys/fs/cgroup -depth -type d -path "*/$1*" -exec rmdir {} + 2>/dev/null', 'sh', `bench-${name}-${process.pid}`], {
    signal,
  }).catch(ignore);
  await rm(directory, { recursive: true, force: true });
}
