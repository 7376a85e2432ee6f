import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { removePod } from './calls.ts';
import type { Daemon } from './daemon.ts';
import { cgroupHierarchies } from './sweep.ts';

/** Directories with one entry for each pod or container. */
const perObject = ['r/bundles', 'r/exits', 'ns/netns', 'ns/ipcns', 'ns/utsns'];

/**
 * What a daemon holds on the machine for pods and containers, as lines of text: records, bundles, exit files, pinned
 * namespaces, mounts, addresses, interfaces, cgroups, processes. Empty when it has none and has left nothing.
 */
export async function remains(daemon: Daemon): Promise<string[]> {
  const { directory, root, network, cgroup } = daemon;
  const links = await run('ip', ['-o', 'link'], { signal: AbortSignal.timeout(10_000) });
  return [
    ...['sandboxes', 'containers'].flatMap((kind) => entries(join(root, kind)).map((name) => `${kind}/${name}`)),
    ...perObject.flatMap((path) => entries(join(directory, path)).map((name) => `${path}/${name}`)),
    ...mounts()
      .filter((path) => path.startsWith(directory) && /[0-9a-f]{64}/.test(path))
      .map((path) => `mount ${path}`),
    ...entries(join(directory, 'ipam', network))
      .filter((name) => /^\d/.test(name))
      .map((name) => `address ${name}`),
    ...links.stdout
      .split('\n')
      .filter((line) => line.includes(`master ${network} `))
      .map((line) => `link ${line.split(':')[1]}`),
    ...cgroupHierarchies().flatMap((hierarchy) => leaves(join(hierarchy, cgroup)).map((path) => `cgroup ${path}`)),
    ...processes(daemon),
  ];
}

/** Waits, at most 20 s, until nothing remains; returns what does. */
export async function lasting(daemon: Daemon): Promise<string[]> {
  let left = await remains(daemon);
  for (let attempt = 0; left.length > 0 && attempt < 100; attempt += 1) {
    await sleep(200);
    left = await remains(daemon);
  }
  return left;
}

/** Stops and removes the only pod there is. @throws with what remains. */
export async function removeLast(daemon: Daemon, podId: string): Promise<void> {
  await removePod(daemon, podId);
  await expectEmpty(daemon);
}

/** Ends a daemon that holds nothing any more, or nothing but this pod, which is removed first. @throws with what remains. */
export async function endEmpty(daemon: Daemon, podId?: string): Promise<void> {
  await using _ended = daemon;
  if (podId !== undefined) await removePod(daemon, podId);
  await expectEmpty(daemon);
}

async function expectEmpty(daemon: Daemon): Promise<void> {
  const left = await lasting(daemon);
  if (left.length > 0) throw new Error(`left of pods and containers:\n${left.join('\n')}`);
}

function entries(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : [];
}

function mounts(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '');
}

function leaves(path: string): string[] {
  while (existsSync(path)) {
    try {
      return readdirSync(path, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isDirectory() && /[0-9a-f]{64}/.test(entry.name))
        .map((entry) => join(entry.parentPath, entry.name));
    } catch (err) {
      if (!isErrno(err, 'ENOENT')) throw err; // something went while it was read: once more
    }
  }
  return [];
}

/** Monitors, runtimes, plugins and workloads; not the daemon and its own children. */
function processes({ directory, cgroup, pid }: Daemon): string[] {
  const found: string[] = [];
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ');
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
      const ours = command.includes(`${directory}/`) || readFileSync(`/proc/${name}/cgroup`, 'utf8').includes(`${cgroup}/`);
      const unpackers = parent === pid() && command.includes('child');
      if (ours && Number(name) !== pid() && !unpackers && Number(name) !== process.pid) found.push(`process ${name} ${command}`);
    } catch {
      // it ended meanwhile
    }
  }
  return found;
}
