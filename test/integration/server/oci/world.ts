import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, copyFile, mkdir, mkdtempDisposable, open, readdir, readFile, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../../../base/exec.ts';
import { umount } from '../../../../base/sys.ts';
import type { ContainerConfig } from '../../../../proto/cri.ts';
import type { ContainerSpecInput } from '../../../../server/oci/container-input.ts';
import { resolveContainer } from '../../../../server/oci/container-resolve.ts';
import { type BuiltSpec, buildContainerSpec } from '../../../../server/oci/container-spec.ts';
import { readHostFacts } from '../../../../server/oci/host-facts.ts';
import type { OciSpec } from '../../../../server/oci/spec.ts';
import { specInput } from '../../../unit/server/oci/requests.ts';

export const runtimes = ['crun', 'runc'] as const;
export type RuntimeName = (typeof runtimes)[number];

const never = new AbortController().signal;

/** What every container of these tests can write its findings to. */
export const OUT = '/out';

/**
 * One pod's worth of things on the host: pinned namespaces, a busybox rootfs and the pod's files. Containers are
 * created, started and deleted with a real runtime; all of it goes with the world.
 */
export async function createWorld(runtime: RuntimeName) {
  const temporary = await mkdtempDisposable(join(tmpdir(), 'oci-spec-'));
  const root = temporary.path;
  const stack = new AsyncDisposableStack();
  stack.defer(() => temporary.remove());
  const pinned: string[] = [];
  stack.defer(() => {
    for (const path of pinned) umount(path);
  });
  for (const dir of ['rootfs', 'runtime', 'ns', 'pod', 'shm', 'out']) await mkdir(join(root, dir));
  await chmod(join(root, 'out'), 0o777); // containers with a user of their own write there too
  for (const kind of ['net', 'uts', 'ipc']) await writeFile(join(root, 'ns', kind), '');
  await run('unshare', [...['net', 'uts', 'ipc'].map((kind) => `--${kind}=${join(root, 'ns', kind)}`), 'hostname', 'web'], { signal: never });
  pinned.push(...['net', 'uts', 'ipc'].map((kind) => join(root, 'ns', kind)));
  await writeFile(join(root, 'pod/resolv.conf'), 'nameserver 10.96.0.10\n');
  await writeFile(join(root, 'pod/hostname'), 'web\n');
  await makeRootfs(join(root, 'rootfs'));
  const cgroup = `berth-spec-test-${process.pid}`;
  stack.defer(() => removeCgroups(cgroup));
  const namespaces = { network: join(root, 'ns/net'), ipc: join(root, 'ns/ipc'), uts: join(root, 'ns/uts') };
  const host = await readHostFacts();
  let count = 0;

  /** Runs one to its end and returns what it wrote to `OUT`. */
  async function inspect(spec: OciSpec, whileCreated?: (pid: number) => Promise<void>): Promise<string> {
    count += 1;
    const id = `t${process.pid}-${count}`;
    const bundle = join(root, id);
    await mkdir(bundle);
    const bind = { destination: OUT, type: 'bind', source: join(root, 'out'), options: ['rbind', 'rprivate', 'rw'] };
    await writeFile(join(bundle, 'config.json'), JSON.stringify({ ...spec, mounts: [...spec.mounts, bind] }));
    const log = join(bundle, 'stderr');
    await rm(join(root, 'out/done'), { force: true });
    try {
      await create(runtime, ['--root', join(root, 'runtime'), 'create', '--bundle', bundle, '--pid-file', join(bundle, 'pid'), id], log);
      const pid = Number(await readFile(join(bundle, 'pid'), 'utf8'));
      await whileCreated?.(pid);
      await run(runtime, ['--root', join(root, 'runtime'), 'start', id], { signal: never });
      for (let tries = 0; tries < 1_000; tries += 1) {
        const { stdout } = await run(runtime, ['--root', join(root, 'runtime'), 'state', id], { signal: never });
        if ((JSON.parse(stdout) as { status: string }).status === 'stopped') break;
        await sleep(10);
      }
      return await readFile(join(root, 'out/done'), 'utf8').catch(async () => `no output: ${await readFile(log, 'utf8')}`);
    } finally {
      await run(runtime, ['--root', join(root, 'runtime'), 'delete', '--force', id], { signal: never }).catch(() => {});
    }
  }

  function input(config: ContainerConfig, change: Partial<ContainerSpecInput> = {}): ContainerSpecInput {
    const base = specInput(config);
    return {
      ...base,
      sandbox: {
        ...base.sandbox,
        namespaces,
        resolvConf: join(root, 'pod/resolv.conf'),
        hostnameFile: join(root, 'pod/hostname'),
        shmDir: join(root, 'shm'),
      },
      rootfs: join(root, 'rootfs'),
      cgroupsPath: `/${cgroup}/${count}`,
      host,
      ...change,
    };
  }

  async function build(config: ContainerConfig, change: Partial<ContainerSpecInput> = {}): Promise<BuiltSpec> {
    const all = input(config, change);
    return buildContainerSpec(all, await resolveContainer(all));
  }

  return { root, cgroup, namespaces, host, input, build, inspect, stack, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** The runtime deletes a container's own cgroup and leaves its parents. */
async function removeCgroups(name: string): Promise<void> {
  for (const controller of await readdir('/sys/fs/cgroup')) {
    await rmdir(join('/sys/fs/cgroup', controller, name)).catch(() => {}); // most names are files, or have none of it
  }
  await rmdir(join('/sys/fs/cgroup', name)).catch(() => {});
}

/** Runs `create` with a file for its output: the container inherits the descriptors, and a pipe would not end with the command. */
async function create(runtime: string, args: readonly string[], log: string): Promise<void> {
  await using file = await open(log, 'w');
  const child = spawn(runtime, args, { stdio: ['ignore', file.fd, file.fd] });
  const [exitCode] = (await once(child, 'exit')) as [number | null];
  if (exitCode !== 0) throw new Error(`${runtime} create: ${await readFile(log, 'utf8')}`);
}

/** busybox with links for what the tests call. */
async function makeRootfs(rootfs: string): Promise<void> {
  for (const dir of ['bin', 'etc', 'proc', 'sys', 'dev', 'tmp', 'out']) await mkdir(join(rootfs, dir));
  await copyFile('/bin/busybox', join(rootfs, 'bin/busybox'));
  for (const name of [
    'sh',
    'id',
    'cat',
    'env',
    'pwd',
    'mount',
    'ls',
    'grep',
    'touch',
    'mknod',
    'stat',
    'hostname',
    'unshare',
    'chroot',
    'sleep',
    'mv',
    'dd',
    'tty',
  ]) {
    await symlink('busybox', join(rootfs, 'bin', name));
  }
  await writeFile(join(rootfs, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n');
  await writeFile(join(rootfs, 'etc/group'), 'root:x:0:\napp:x:1000:\naudio:x:29:app\n');
}

/** A shell script as a container's command; its whole output is what `inspect` returns. */
export function script(text: string): readonly string[] {
  return ['sh', '-c', `{ ${text}\n} > ${OUT}/part 2>&1; mv ${OUT}/part ${OUT}/done`];
}
