import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { descendants } from '#base/exec.ts';
import { identifyProcess, isAlive, type ProcessIdentity, readProcessStat, signalProcess } from '#base/process.ts';
import type { ExecCgroup } from '../oci/exec-cgroup.ts';
import type { ExecTarget } from './exec-target.ts';

/** Where to look for what an exec has started. */
export interface ExecTree {
  /** The OCI runtime that runs in the foreground; `undefined` once it has ended. */
  readonly runtimePid: () => number | undefined;
  /** The command itself, once the runtime has told. */
  readonly commandPid: () => number | undefined;
  /** The exec's own. What is in it belongs to the exec, wherever it has forked to. */
  readonly cgroup: Pick<ExecCgroup, 'procs'>;
  /** All pids in the container's cgroup now. */
  readonly cgroupProcs: () => readonly number[];
  /** The container's first process, which is never touched. */
  readonly init: ProcessIdentity;
}

/** For so long a runtime may take to start its command, and to reap it, before it is killed too. */
const GRACE_MS = 500;

/**
 * Kills an exec whole: what is in its cgroup, the command, its descendants, what forked away from them but kept the
 * session, and the runtime. Without a cgroup what has left both its parents and the session is not found.
 * All are stopped before any is killed, so that none forks while its parents are being counted. The runtime goes last:
 * killed before it has told the command's pid it would leave the command to itself, and later it reaps the command, which
 * would otherwise stay in the container as a zombie where init does not reap.
 * @returns what is still there after `timeoutMs`.
 */
export async function killExec(tree: ExecTree, timeoutMs: number): Promise<ProcessIdentity[]> {
  const began = performance.now();
  const sessions = new Set<number>();
  for (;;) {
    const waited = performance.now() - began;
    const spared = waited < GRACE_MS ? tree.runtimePid() : undefined;
    const starting = spared !== undefined && tree.commandPid() === undefined;
    const members = starting ? [] : stopAll(tree, sessions, spared);
    for (const member of members) signalProcess(member, 'SIGKILL');
    if ((members.length === 0 && spared === undefined) || waited > timeoutMs) return members;
    await sleep(2);
  }
}

const MAX_PASSES = 100;

function stopAll(tree: ExecTree, sessions: Set<number>, spared: number | undefined): ProcessIdentity[] {
  const stopped = new Map<number, ProcessIdentity>();
  for (let pass = 0; pass < MAX_PASSES; pass += 1) {
    const fresh = execMembers(tree, sessions).filter(({ pid }) => pid !== spared && !stopped.has(pid));
    if (fresh.length === 0) break;
    for (const member of fresh) {
      stopped.set(member.pid, member);
      signalProcess(member, 'SIGSTOP');
    }
  }
  return [...stopped.values()];
}

function execMembers(tree: ExecTree, sessions: Set<number>): ProcessIdentity[] {
  const runtimePid = tree.runtimePid();
  for (const sessionId of sessionsOf(runtimePid, tree.commandPid())) sessions.add(sessionId);
  const runtime = runtimePid === undefined ? undefined : identifyProcess(runtimePid);
  const heads = [...sessionMembers(tree, sessions), runtime].filter((head) => head !== undefined);
  const own = tree.cgroup.procs().flatMap((pid) => identifyProcess(pid) ?? []);
  const members = [...own, ...heads.flatMap((head) => [head, ...descendants(head.pid)])];
  return members.filter(({ pid }) => pid !== tree.init.pid);
}

/**
 * The runtime leads a session of its own. The command is in another: runc's command leads it, crun's is led by a process
 * that has ended before, so it is only known while the command is there.
 */
function sessionsOf(runtimePid: number | undefined, commandPid: number | undefined): number[] {
  const command = commandPid === undefined ? undefined : readProcessStat(commandPid);
  return [runtimePid, commandPid, command?.sessionId].filter((sessionId) => sessionId !== undefined && sessionId > 0) as number[];
}

/** Living processes of the container that are in one of these sessions. */
function sessionMembers({ cgroupProcs, init }: ExecTree, sessions: ReadonlySet<number>): ProcessIdentity[] {
  return cgroupProcs().flatMap((pid) => {
    const stat = pid === init.pid ? undefined : readProcessStat(pid);
    return stat !== undefined && sessions.has(stat.sessionId) && isAlive(stat) ? { pid, startTime: stat.startTime } : [];
  });
}

/**
 * Kills what keeps a runtime from ending after its command has: runc copies the output itself and gives no exit code
 * before the last writer is gone. Its pipes are known to this exec alone, so whoever in the container holds one is a
 * leftover of the command. Leftovers without a pipe live on.
 */
export function killPipeHolders(tree: ExecTree): void {
  const runtimePid = tree.runtimePid();
  if (runtimePid === undefined) return;
  const pipes = new Set(openPipes(runtimePid));
  for (const pid of tree.cgroupProcs().filter((candidate) => candidate !== tree.init.pid && candidate !== runtimePid)) {
    const holder = identifyProcess(pid);
    if (holder !== undefined && openPipes(pid).some((name) => pipes.has(name))) signalProcess(holder, 'SIGKILL');
  }
}

function openPipes(pid: number): string[] {
  const directory = `/proc/${pid}/fd`;
  return listOrNone(() => readdirSync(directory))
    .flatMap((fd) => listOrNone(() => [readlinkSync(`${directory}/${fd}`)]))
    .filter((link) => link.startsWith('pipe:'));
}

function listOrNone(list: () => string[]): string[] {
  try {
    return list();
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM')) return []; // gone, or not ours to look at
    throw err;
  }
}

/**
 * Gives a process that runs a command, or is going to, the container's oom_score_adj: what it starts inherits it. crun
 * passes on the daemon's own, which would keep a hungry command alive at its container's expense; runc takes the one that
 * the container was created with, whatever an update said since. Best effort: only privilege may lower it.
 */
export function setOomScore(pid: number, { process }: Pick<ExecTarget, 'process'>): void {
  const { oomScoreAdj } = process as { oomScoreAdj?: number };
  if (oomScoreAdj === undefined) return;
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, String(oomScoreAdj));
  } catch (err) {
    if (!isErrno(err, 'EACCES', 'EPERM', 'ENOENT', 'ESRCH')) throw err;
  }
}
