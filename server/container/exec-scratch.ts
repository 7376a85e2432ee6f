import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { identifyProcess, isAlive, type ProcessIdentity } from '#base/process.ts';
import type { ExecCgroup } from '../oci/exec-cgroup.ts';
import type { ExecTarget } from './exec-target.ts';
import { type ExecTree, killExec } from './exec-tree.ts';

/** How long killed processes may take to go. */
const KILL_TIMEOUT_MS = 5_000;

/** What the command's process has over the container's own. */
export interface ExecProcess {
  readonly args: readonly string[];
  readonly terminal: boolean;
  /** In character cells: the terminal's size when the command begins. */
  readonly consoleSize?: { readonly width: number; readonly height: number };
}

/**
 * What one exec has of its own: two files in the bundle, which is a tmpfs, and a cgroup. The files are the process for the
 * runtime to read and the pid that it writes; their names tell a later daemon of the exec and its cgroup.
 */
export class Scratch implements Disposable {
  /** Sixteen hex digits, this exec's own. */
  readonly name = randomBytes(8).toString('hex');
  readonly processPath: string;
  readonly pidPath: string;
  readonly cgroup: ExecCgroup;
  readonly #process: object;
  #text = '';

  constructor({ bundle, process, takeCgroup }: Pick<ExecTarget, 'bundle' | 'process' | 'takeCgroup'>, given: ExecProcess) {
    this.cgroup = takeCgroup();
    const path = join(bundle, `exec-${this.name}${this.cgroup.name === '' ? '' : `.${this.cgroup.name}`}`);
    this.processPath = `${path}.json`;
    this.pidPath = `${path}.pid`;
    this.#process = process;
    try {
      this.write(given);
    } catch (err) {
      this[Symbol.dispose]();
      throw err;
    }
  }

  /** Writes the process anew: for what is known better shortly before it begins. */
  write(given: ExecProcess): void {
    const env = given.terminal ? withTerm(this.#process) : {};
    this.#text = JSON.stringify({ ...this.#process, ...env, ...given });
    writeFileSync(this.processPath, this.#text, { mode: 0o600 });
  }

  /** What the process's file holds. */
  get processText(): string {
    return this.#text;
  }

  /** Of the command, in the host's numbers; `undefined` before it runs. */
  readPid(): number | undefined {
    return readPidFile(this.pidPath);
  }

  [Symbol.dispose](): void {
    for (const path of [this.processPath, this.pidPath]) rmSync(path, { force: true });
    this.cgroup[Symbol.dispose]();
  }
}

/** A container that has no terminal itself has no TERM either. */
function withTerm(process: { readonly env?: readonly string[] }): { readonly env: readonly string[] } {
  const { env = [] } = process;
  return { env: env.some((entry) => entry.startsWith('TERM=')) ? env : [...env, 'TERM=xterm'] };
}

/** The process's file of an exec, with the name of its cgroup. */
const LEFT = /^exec-[0-9a-f]{16}(?:\.([^/]+))?\.json$/;

/**
 * Ends the commands that a dead daemon had started in a container: nobody waits for them, and their time limits died with
 * it. They are told by the files that each leaves in the bundle while it runs.
 */
export async function endLeftExecs(
  target: Pick<ExecTarget, 'bundle' | 'cgroupProcs' | 'init'> & { readonly findCgroup: (name: string) => ExecCgroup },
): Promise<void> {
  const names = (await readdir(target.bundle)).filter((name) => LEFT.test(name));
  for (const name of names) {
    const paths = { process: join(target.bundle, name), pid: join(target.bundle, name.replace('.json', '.pid')) };
    const runtime = findProcess(paths.pid);
    const tree: ExecTree = {
      cgroup: target.findCgroup(LEFT.exec(name)?.[1] ?? ''),
      runtimePid: () => (runtime !== undefined && isAlive(runtime) ? runtime.pid : undefined),
      commandPid: () => readPidFile(paths.pid),
      cgroupProcs: target.cgroupProcs,
      init: target.init,
    };
    await killExec(tree, KILL_TIMEOUT_MS);
    for (const path of [paths.process, paths.pid]) rmSync(path, { force: true });
  }
}

/** The runtime, or the monitor before it, that was given this file on its command line. */
function findProcess(argument: string): ProcessIdentity | undefined {
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry) && hasArgument(entry, argument));
  // The monitor has started the runtime, so that it has the lower pid but for one time in many thousands.
  const [pid] = pids.map(Number).sort((a, b) => a - b);
  return pid === undefined ? undefined : identifyProcess(pid);
}

function hasArgument(pid: string, argument: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(argument);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return false;
    throw err;
  }
}

function readPidFile(path: string): number | undefined {
  try {
    const pid = Number(readFileSync(path, 'latin1'));
    return pid > 0 ? pid : undefined;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}
