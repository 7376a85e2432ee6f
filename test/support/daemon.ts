import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { run } from '#base/exec.ts';
import { removePod } from './calls.ts';
import { type Cri, connectCri } from './cri.ts';
import { Faults } from './faults.ts';
import { mark, subnetOf } from './mark.ts';
import { ensureImage } from './pod.ts';
import { removeCgroups } from './sweep.ts';
import { CACHE, findTool } from './tool.ts';

const PROJECT = join(import.meta.dirname, '../..');
const READY_MS = 30_000;

export type Handler = 'crun' | 'runc';

/** Values by section and key, over what `startDaemon` sets itself. A list is written as one line with blanks. */
export type ConfigOverrides = Readonly<Record<string, Readonly<Record<string, string | number | boolean>>>>;

export interface DaemonOptions {
  readonly handler: Handler;
  readonly config?: ConfigOverrides;
  readonly env?: Readonly<Record<string, string>>;
  /** A pinned network namespace that stands for a node of its own; without it the daemon is in the test's. */
  readonly netns?: string;
  /** `host:port` that stands for registry.k8s.io and gcr.io; empty for none. */
  readonly registry?: string;
  /** Pulled at once. Default none. */
  readonly images?: readonly string[];
}

/** A real daemon with everything of its own: root, sockets, namespaces, bridge, subnet. Disposing of it removes it all. */
export interface Daemon extends AsyncDisposable {
  /** Its temporary directory; tests may put files there. */
  readonly directory: string;
  readonly root: string;
  readonly runroot: string;
  readonly socket: string;
  readonly configFile: string;
  /** CNI configurations; one is there. */
  readonly networkDir: string;
  /** Its CNI plugins, conmon and the OCI runtime, each of which can be made to misbehave. */
  readonly faults: Faults;
  /** Name of the bridge and of the CNI network. */
  readonly network: string;
  /** The first three numbers of the pods' /24. */
  readonly subnet: string;
  readonly handler: Handler;
  /** Pods' cgroup parents must lie below it. */
  readonly cgroup: string;
  readonly cri: Cri;
  readonly pid: () => number;
  /** Everything that it has logged, over all its lives, one JSON object a line. */
  readonly log: () => string;
  /** Ends the process and waits for that. Returns the exit code, or the signal's name. */
  readonly kill: (signal: NodeJS.Signals) => Promise<number | string>;
  /** Starts it again after `kill`. */
  readonly start: () => Promise<void>;
  /** SIGKILL and start. */
  readonly restart: () => Promise<void>;
}

/** The command line of Berth: its sources, or what BERTH_COMMAND says (blanks separate). */
export function berthCommand(): [string, ...string[]] {
  const command = process.env.BERTH_COMMAND?.split(' ').filter((word) => word !== '') ?? [];
  const [file, ...args] = command;
  return file === undefined ? [join(PROJECT, 'node_modules/.bin/node'), join(PROJECT, 'server/main.ts')] : [file, ...args];
}

/** Starts a daemon and waits until it answers. */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const layout = prepare(options);
  const cri = connectCri(layout.socket);
  let child: ChildProcess | undefined;

  const start = async (): Promise<void> => {
    child = launch(layout, options);
    await answers(cri, child, layout.logFile);
  };
  const kill = async (signal: NodeJS.Signals): Promise<number | string> => {
    if (child === undefined) throw new Error('the daemon was not started');
    child.kill(signal);
    return ended(child);
  };
  const daemon: Daemon = {
    ...layout,
    handler: options.handler,
    cri,
    pid: () => child?.pid ?? 0,
    log: () => readFileSync(layout.logFile, 'utf8'),
    kill,
    start,
    restart: async () => {
      await kill('SIGKILL');
      await start();
    },
    [Symbol.asyncDispose]: async () => {
      try {
        if (child !== undefined && hasEnded(child)) await start();
        await removePods(daemon);
        const result = child === undefined ? 0 : await stopGracefully(child);
        if (result !== 0) throw new Error(`the daemon ended with ${result}: ${lastLines(layout.logFile)}`);
      } finally {
        cri.close();
        if (child !== undefined && !hasEnded(child)) await kill('SIGKILL');
        await removeTraces(layout);
      }
    },
  };
  try {
    await start();
    for (const image of options.images ?? []) await ensureImage(daemon, image);
  } catch (err) {
    await kill('SIGKILL');
    cri.close();
    await removeTraces(layout);
    throw err;
  }
  return daemon;
}

type Layout = Omit<Daemon, 'cri' | 'handler' | 'pid' | 'log' | 'kill' | 'start' | 'restart' | typeof Symbol.asyncDispose> & { readonly logFile: string };

function prepare({ handler, config = {}, registry = '' }: DaemonOptions): Layout {
  // short: the path of a monitor's socket has 107 bytes, and an id takes 64 of them
  const directory = mkdtempSync(join(tmpdir(), 'd'));
  chmodSync(directory, 0o711); // as /run and /var/lib: root of a user namespace has to get to its files
  const network = `${mark()}${directory.slice(-6).replace(/[^a-zA-Z0-9]/g, 'x')}`;
  const runroot = String(config.berth?.runroot ?? join(directory, 'r'));
  const programs = join(directory, 'bin');
  mkdirSync(programs);
  const layout: Layout = {
    directory,
    root: String(config.berth?.root ?? join(directory, 'root')),
    runroot,
    socket: join(runroot, 'berth.sock'),
    configFile: join(directory, 'berth.conf'),
    networkDir: join(directory, 'net.d'),
    faults: new Faults(programs, {
      ...Object.fromEntries(['bridge', 'host-local', 'portmap', 'loopback'].map((plugin) => [plugin, pluginPath(plugin)])),
      conmon: programPath('conmon'),
      crun: programPath('crun'),
      runc: programPath('runc'),
    }),
    network,
    subnet: subnetOf(network),
    cgroup: `/${mark()}`,
    logFile: join(directory, 'berth.log'),
  };
  mkdirSync(layout.networkDir);
  writeFileSync(join(layout.networkDir, '10-test.conflist'), JSON.stringify(conflist(layout)));
  writeFileSync(join(directory, 'registries.conf'), registriesConf(registry));
  writeFileSync(
    layout.configFile,
    toIni({
      berth: { root: layout.root, runroot: layout.runroot, log_level: 'debug', ...config.berth },
      api: { ...config.api },
      runtime: {
        default_runtime: handler,
        cgroup_manager: 'cgroupfs',
        namespaces_dir: join(directory, 'ns'),
        conmon: layout.faults.path('conmon'),
        ...config.runtime,
      },
      'runtime.runtimes.crun': { runtime_path: layout.faults.path('crun') },
      'runtime.runtimes.runc': { runtime_path: layout.faults.path('runc') },
      image: { registries_conf: join(directory, 'registries.conf'), ...config.image },
      network: { network_dir: layout.networkDir, plugin_dirs: programs, ...config.network },
      metrics: { ...config.metrics },
      ...Object.fromEntries(Object.entries(config).filter(([section]) => section.startsWith('runtime.runtimes.'))),
    }),
  );
  return layout;
}

function conflist({ network, subnet, directory }: Layout): unknown {
  return {
    cniVersion: '1.0.0',
    name: network,
    plugins: [
      {
        type: 'bridge',
        bridge: network,
        isGateway: true,
        ipMasq: true,
        hairpinMode: true,
        ipam: { type: 'host-local', ranges: [[{ subnet: `${subnet}.0/24` }]], routes: [{ dst: '0.0.0.0/0' }], dataDir: join(directory, 'ipam') },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

/** Where Debian or another one has put a CNI plugin. */
export function pluginPath(name: string): string {
  const found = ['/opt/cni/bin', '/usr/libexec/cni', '/usr/lib/cni'].map((directory) => join(directory, name)).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`the CNI plugin ${name} is not installed`);
  return found;
}

function programPath(name: string): string {
  const found = findTool(name);
  if (found === undefined) throw new Error(`${name} is not installed`);
  return found;
}

function registriesConf(registry: string): string {
  if (registry === '') return '';
  return ['registry.k8s.io', 'k8s.gcr.io', 'gcr.io'].map((name) => `[[registry]]\nprefix = "${name}"\nlocation = "${registry}"\ninsecure = true\n`).join('\n');
}

function toIni(sections: ConfigOverrides): string {
  return Object.entries(sections)
    .map(
      ([name, keys]) =>
        `[${name}]\n${Object.entries(keys)
          .map(([key, value]) => `${key} = ${value}\n`)
          .join('')}`,
    )
    .join('\n');
}

function launch(layout: Layout, { env = {}, netns }: DaemonOptions): ChildProcess {
  const [file, ...args]: [string, ...string[]] = netns === undefined ? berthCommand() : ['nsenter', `--net=${netns}`, ...berthCommand()];
  const log = openSync(layout.logFile, 'a');
  try {
    return spawn(file, [...args, 'daemon', '--config', layout.configFile], {
      stdio: ['ignore', log, log],
      detached: true, // an interrupt of the tests must not look like a stop of the daemon
      env: { PATH: process.env.PATH, ...env },
    });
  } finally {
    closeSync(log);
  }
}

async function answers(cri: Cri, child: ChildProcess, logFile: string): Promise<void> {
  const deadline = performance.now() + READY_MS;
  while (performance.now() < deadline) {
    if (hasEnded(child)) throw new Error(`the daemon ended with ${child.exitCode ?? child.signalCode}: ${lastLines(logFile)}`);
    const version = await cri.Version({}, { deadlineMs: 1_000 }).catch(() => undefined);
    if (version !== undefined) return;
    await sleep(20);
  }
  throw new Error(`the daemon does not answer: ${lastLines(logFile)}`);
}

/** Stops and removes all pods; by the records too, since what nobody has claimed is in no list. */
export async function removePods({ cri, root }: Daemon): Promise<void> {
  const recorded = existsSync(join(root, 'sandboxes')) ? readdirSync(join(root, 'sandboxes')).filter((name) => /^[0-9a-f]{64}$/.test(name)) : [];
  const { items } = await cri.ListPodSandbox();
  const ids = [...new Set([...recorded, ...items.map(({ id }) => id)])];
  await Promise.all(ids.map((id) => removePod({ cri }, id)));
}

async function stopGracefully(child: ChildProcess): Promise<number | string> {
  child.kill('SIGTERM');
  return ended(child);
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

function ended(child: ChildProcess): Promise<number | string> {
  if (hasEnded(child)) return Promise.resolve(child.exitCode ?? child.signalCode ?? 0);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the daemon did not end within 30 s')), 30_000);
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      resolve(code ?? signal ?? 0);
    });
  });
}

/**
 * What a CNI plugin leaves for good, and what a kubelet would remove: the bridge, the pods' cgroups, the files. The log
 * stays, in test/.cache/logs.
 */
async function removeTraces({ directory, network, logFile }: Layout): Promise<void> {
  mkdirSync(join(CACHE, 'logs'), { recursive: true });
  copyFileSync(logFile, join(CACHE, 'logs', `${network}.log`));
  await run('ip', ['link', 'del', network], { signal: AbortSignal.timeout(10_000) }).catch(() => {});
  removeCgroups(mark());
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(` ${directory}/`));
  if (mounts.length > 0) throw new Error(`still mounted:\n${mounts.join('\n')}`); // never remove files through a mount
  rmSync(directory, { recursive: true, force: true });
}

function lastLines(path: string): string {
  return readFileSync(path, 'utf8').split('\n').slice(-15).join('\n');
}
