import { randomBytes } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { isAlive, type ProcessIdentity, signalProcess } from '#base/process.ts';
import { adoptMonitor, type MonitorSpec, type Started, startMonitor } from '../../../conmon/conmon.ts';
import { killOne, procsBelow } from '../../../server/oci/cgroup-fs.ts';

export const RUNTIMES = ['/usr/bin/crun', '/usr/bin/runc'];
const HIERARCHIES = ['/sys/fs/cgroup', ...readdirSync('/sys/fs/cgroup').map((name) => join('/sys/fs/cgroup', name))];

export interface BundleOptions {
  readonly args?: readonly string[];
  readonly memoryLimitBytes?: number;
  readonly terminal?: boolean;
  readonly log?: boolean;
  readonly spec?: Partial<MonitorSpec>;
}

/** A bundle with a busybox in it, a directory for everything, and a cgroup; all gone when it is disposed of. */
export interface TestBundle extends AsyncDisposable {
  readonly directory: string;
  readonly spec: MonitorSpec;
  readonly logPath: string;
  readonly process: object;
  /** Below every hierarchy. */
  readonly cgroupPath: string;
  readonly cgroupProcs: () => number[];
  readonly start: (signal?: AbortSignal) => Promise<Started>;
  /** `startMonitor` and the runtime's `start`. */
  readonly startAndRun: () => Promise<Started>;
  readonly runtime: (...args: string[]) => Promise<string>;
}

export async function makeBundle(runtimePath: string, options: BundleOptions = {}): Promise<TestBundle> {
  const { args = ['sleep', '1000'], memoryLimitBytes, terminal = false, log = true } = options;
  const directory = await mkdtempDisposable(join(tmpdir(), 'cm-'));
  const id = randomBytes(8).toString('hex');
  const cgroup = `berth-test-${process.env.BERTH_TEST_MARK ?? ''}${id}`;
  const bundle = join(directory.path, id);
  const logPath = join(directory.path, 'logs', '0.log');
  for (const part of ['exits', 'logs', 'runtime', `${id}/rootfs/bin`, `${id}/rootfs/proc`, `${id}/rootfs/dev`, `${id}/rootfs/tmp`]) {
    mkdirSync(join(directory.path, part), { recursive: true });
  }
  copyFileSync('/bin/busybox', join(bundle, 'rootfs/bin/busybox'));
  for (const applet of ['sh', 'sleep', 'cat', 'true', 'dd', 'yes', 'head', 'setsid', 'stty', 'tail', 'seq', 'tr']) {
    symlinkSync('busybox', join(bundle, 'rootfs/bin', applet));
  }
  const capabilities = ['CAP_KILL', 'CAP_SETUID', 'CAP_SETGID'];
  const ociProcess = {
    terminal,
    user: { uid: 0, gid: 0 },
    args,
    env: ['PATH=/bin', 'MARK=of the container'],
    cwd: '/',
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
  };
  const config = {
    ociVersion: '1.0.2',
    process: ociProcess,
    root: { path: 'rootfs', readonly: false },
    hostname: 'test',
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
      { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['newinstance', 'ptmxmode=0666'] },
    ],
    linux: {
      cgroupsPath: `/${cgroup}/${id}`,
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }],
      ...(memoryLimitBytes === undefined ? {} : { resources: { memory: { limit: memoryLimitBytes, swap: memoryLimitBytes } } }),
    },
  };
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config));
  const spec: MonitorSpec = {
    id,
    bundle,
    runtimePath,
    runtimeRoot: join(directory.path, 'runtime'),
    conmonPath: '/usr/bin/conmon',
    logPath: log ? logPath : undefined,
    exitDir: join(directory.path, 'exits'),
    terminal,
    stdin: false,
    stdinOnce: false,
    ...options.spec,
  };
  const runtime = async (...words: string[]): Promise<string> => {
    const { stdout } = await run(runtimePath, [`--root=${spec.runtimeRoot}`, ...words], { signal: AbortSignal.timeout(10_000) });
    return stdout;
  };
  const start = (signal = new AbortController().signal): Promise<Started> => startMonitor(spec, { signal });
  return {
    directory: directory.path,
    spec,
    logPath,
    process: ociProcess,
    cgroupPath: `/${cgroup}/${id}`,
    cgroupProcs: () => procsOf(`${cgroup}/${id}`),
    start,
    startAndRun: async () => {
      const started = await start();
      await runtime('start', id);
      return started;
    },
    runtime,
    [Symbol.asyncDispose]: async () => {
      const { monitor, init } = await adoptMonitor(bundle);
      if (/^(crun|runc)/.test(basename(runtimePath))) await runtime('delete', '--force', id).catch(() => {});
      for (const pid of procsOf(`${cgroup}/${id}`)) killOne(pid);
      if (init !== undefined) signalProcess(init, 'SIGKILL');
      if (monitor !== undefined) await gone(monitor);
      await removeCgroup(cgroup);
      await directory.remove();
    },
  };
}

function procsOf(cgroup: string): number[] {
  const directory = HIERARCHIES.map((root) => join(root, cgroup)).find((path) => existsSync(path));
  return directory === undefined ? [] : [...procsBelow(directory)];
}

async function removeCgroup(name: string): Promise<void> {
  for (const path of HIERARCHIES.map((root) => join(root, name)).filter((directory) => existsSync(directory))) {
    for (const child of readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory())) await removeEmpty(join(path, child.name));
    await removeEmpty(path);
  }
}

async function removeEmpty(path: string): Promise<void> {
  for (let left = 200; ; left -= 1) {
    try {
      rmdirSync(path);
      return;
    } catch (err) {
      if (isErrno(err, 'ENOENT')) return;
      if (!isErrno(err, 'EBUSY') || left === 0) throw err;
      await sleep(20); // a killed process leaves its cgroup a moment later
    }
  }
}

/** Waits until a process has died; what takes longer than 10 s is an error. */
export async function gone(identity: ProcessIdentity): Promise<void> {
  await until(() => !isAlive(identity), `process ${identity.pid} to die`);
}

export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited 10 s for ${what}`);
    await sleep(5);
  }
}

/** Living processes that have this word on their command line. */
export function processesWith(word: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => readOr(`/proc/${pid}/cmdline`, '').includes(word))
    .map(Number);
}

export function countFds(): number {
  return readdirSync('/proc/self/fd').length;
}

function readOr(path: string, otherwise: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return otherwise;
  }
}
