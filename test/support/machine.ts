import { mkdtempSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { MNT, mount, umount } from '#base/sys.ts';

/** What tests could leave behind on a machine, each as lines of text that can be compared. */
export interface Machine {
  readonly mounts: readonly string[];
  readonly links: readonly string[];
  readonly rules: readonly string[];
  readonly cgroups: readonly string[];
  readonly processes: readonly string[];
  readonly files: readonly string[];
}

/** Where files of pods lie that are outside of a test's own directory, unless its configuration says otherwise. */
const SHARED_DIRECTORIES = ['/run/netns', '/run/ipcns', '/run/utsns', '/run/userns', '/run/berth', '/var/lib/berth', '/var/lib/cni', '/run/cni'];

/** Programs that a pod brings with it. */
const PROGRAMS = new Set(['conmon', 'catatonit', 'crun', 'runc', 'pause', 'bridge', 'portmap', 'host-local', 'loopback', 'docker-registry', 'prometheus']);

/** The machine as it is now. `directory` is the test file's own temporary directory; it counts as a file too. */
export async function snapshot(directory: string): Promise<Machine> {
  return {
    mounts: readLines('/proc/self/mountinfo').map((line) => line.split(' ').slice(4).join(' ')),
    links: (await linesOf('ip', ['-o', 'link'])).map((line) => line.replace(/^\d+: /, '').replace(/\\.*$/, '')),
    rules: await firewallRules(),
    cgroups: [...listTree('/sys/fs/cgroup', 'directories'), ...commandCgroups()],
    processes: listProcesses(),
    files: [directory, ...SHARED_DIRECTORIES].flatMap((path) => listTree(path, 'everything', 4)),
  };
}

/**
 * What is there now and was not there before. Without `alone`, only what bears the mark counts, since others may be at
 * work on the machine; with it, everything does.
 */
export function leftovers(before: Machine, after: Machine, { mark, alone }: { mark: string; alone: boolean }): string[] {
  const kinds = Object.keys(before) as (keyof Machine)[];
  return kinds.flatMap((kind) => {
    const known = new Set(before[kind]);
    return after[kind].filter((line) => !known.has(line) && (line.includes(mark) || (alone && isOfAPod(kind, line)))).map((line) => `${kind}: ${line}`);
  });
}

/** Cgroups of commands, from the container's id on. With cgroup v1 they are in a hierarchy that is mounted nowhere; none with version 2. */
export function commandCgroups(): string[] {
  if (!readOptional('/proc/self/cgroup').includes(':name=berth:')) return [];
  const directory = mkdtempSync('/tmp/name-berth-');
  try {
    mount('none', directory, 'cgroup', 0, 'none,name=berth');
    try {
      return listTree(directory, 'directories').map((path) => path.slice(directory.length));
    } finally {
      umount(directory, MNT.DETACH);
    }
  } finally {
    rmdirSync(directory);
  }
}

function isOfAPod(kind: keyof Machine, line: string): boolean {
  // processes come and go on any machine; those of a pod are known by their program
  if (kind === 'processes') return PROGRAMS.has(programOf(line)) || line.includes('server/main.ts');
  return true;
}

function programOf(line: string): string {
  const [, command = ''] = line.split('\t');
  return command.split(' ')[0]?.split('/').at(-1) ?? '';
}

/**
 * The rules that belong to one pod or network. The chains of portmap itself (CNI-HOSTPORT-…) and of firewall (CNI-ADMIN,
 * CNI-FORWARD), and the tables, stay for good once they have been made, with the rules that lead to them: that is how the
 * plugins do it. They are in the run's own network (test/own-network), and go with it.
 */
async function firewallRules(): Promise<string[]> {
  const listed = [...(await linesOf('iptables-save', [])), ...(await linesOf('ip6tables-save', [])), ...(await linesOf('nft', ['list', 'ruleset']))];
  return listed
    .map((line) =>
      line
        .replace(/\[\d+:\d+\]/, '')
        .replace(/counter packets \d+ bytes \d+/, 'counter')
        .trim(),
    )
    .filter((line) => /CNI-(?!HOSTPORT-|ADMIN|FORWARD)|-A CNI-FORWARD|comment/.test(line) && !/# Warning|CNI portfwd |CNI firewall plugin /.test(line));
}

function listProcesses(): string[] {
  const found: string[] = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    const command = readOptional(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
    if (command === '' || Number(pid) === process.pid) continue; // a kernel thread, a zombie, or the one who asks
    const cgroups = new Set(
      readOptional(`/proc/${pid}/cgroup`)
        .split('\n')
        .map((line) => line.split(':').at(-1)),
    );
    // who was started by a test file has its mark in the environment, unless that was left out on purpose
    const inherited = /BERTH_TEST_MARK=(\w+)/.exec(readOptional(`/proc/${pid}/environ`))?.[1] ?? '';
    found.push(`${pid}\t${command}\t${[...cgroups].join(' ').trim()}\t${inherited}`);
  }
  return found;
}

function listTree(path: string, what: 'directories' | 'everything', depth = 12): string[] {
  if (depth === 0) return [];
  let entries: ReturnType<typeof readEntries>;
  try {
    entries = readEntries(path);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'EACCES', 'ENODEV')) return []; // it went meanwhile
    throw err;
  }
  return entries
    .filter((entry) => what === 'everything' || entry.isDirectory())
    .flatMap((entry) => {
      const child = join(path, entry.name);
      return [child, ...(entry.isDirectory() ? listTree(child, what, depth - 1) : [])];
    });
}

function readEntries(path: string) {
  return readdirSync(path, { withFileTypes: true });
}

function readOptional(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM')) return '';
    throw err;
  }
}

function readLines(path: string): string[] {
  return readOptional(path)
    .split('\n')
    .filter((line) => line !== '');
}

async function linesOf(program: string, args: readonly string[]): Promise<string[]> {
  const { stdout } = await run(program, args, { signal: AbortSignal.timeout(20_000) });
  return stdout.split('\n');
}
