import { readdirSync, readlinkSync } from 'node:fs';
import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { descendants } from '#base/exec.ts';
import { identifyProcess, isAlive, type ProcessIdentity, readProcessStat, signalProcess } from '#base/process.ts';

/** Where to look for what an exec has started. */
export interface ExecTree {
  /** The OCI runtime that runs in the foreground; `undefined` once it has ended. */
  readonly runtimePid: () => number | undefined;
  /** The command itself, once the runtime has told; it leads a session of its own. */
  readonly commandPid: () => number | undefined;
  /** All pids in the container's cgroup now. */
  readonly cgroupProcs: () => readonly number[];
  /** The container's first process, which is never touched. */
  readonly init: ProcessIdentity;
}

/** For so long a runtime may take to reap its command before it is killed too. */
const REAP_MS = 500;

/**
 * Kills an exec whole: the command, its descendants, what forked away from them but kept the session, and the runtime.
 * All are stopped before any is killed, so that none forks while its parents are being counted. The runtime goes last:
 * it reaps the command, which would otherwise stay in the container as a zombie where init does not reap.
 * @returns what is still there after `timeoutMs`.
 */
export async function killExec(tree: ExecTree, timeoutMs: number): Promise<ProcessIdentity[]> {
  const began = performance.now();
  for (;;) {
    const waited = performance.now() - began;
    const spared = tree.commandPid() !== undefined && waited < REAP_MS ? tree.runtimePid() : undefined;
    const members = stopAll(tree, spared);
    for (const member of members) signalProcess(member, 'SIGKILL');
    if ((members.length === 0 && spared === undefined) || waited > timeoutMs) return members;
    await sleep(2);
  }
}

const MAX_PASSES = 100;

function stopAll(tree: ExecTree, spared: number | undefined): ProcessIdentity[] {
  const stopped = new Map<number, ProcessIdentity>();
  for (let pass = 0; pass < MAX_PASSES; pass += 1) {
    const fresh = execMembers(tree).filter(({ pid }) => pid !== spared && !stopped.has(pid));
    if (fresh.length === 0) break;
    for (const member of fresh) {
      stopped.set(member.pid, member);
      signalProcess(member, 'SIGSTOP');
    }
  }
  return [...stopped.values()];
}

function execMembers(tree: ExecTree): ProcessIdentity[] {
  const runtimePid = tree.runtimePid();
  const runtime = runtimePid === undefined ? undefined : identifyProcess(runtimePid);
  const heads = [...sessionMembers(tree), runtime].filter((head) => head !== undefined);
  const members = heads.flatMap((head) => [head, ...descendants(head.pid)]);
  return members.filter(({ pid }) => pid !== tree.init.pid);
}

/** Living processes of the container that are in the session of the exec's command. */
function sessionMembers({ runtimePid, commandPid, cgroupProcs, init }: ExecTree): ProcessIdentity[] {
  const sessions = [runtimePid(), commandPid()];
  return cgroupProcs().flatMap((pid) => {
    const stat = pid === init.pid ? undefined : readProcessStat(pid);
    return stat !== undefined && sessions.includes(stat.sessionId) && isAlive(stat) ? { pid, startTime: stat.startTime } : [];
  });
}

/**
 * Kills what keeps a runtime from ending after its command has: runc copies the output itself and gives no exit code
 * before the last writer is gone, so processes of the exec's session that hold a pipe of the runtime's must go. Others live on.
 */
export function killPipeHolders(tree: ExecTree): void {
  const runtimePid = tree.runtimePid();
  if (runtimePid === undefined) return;
  const pipes = new Set(openPipes(runtimePid));
  for (const member of sessionMembers(tree)) {
    if (openPipes(member.pid).some((name) => pipes.has(name))) signalProcess(member, 'SIGKILL');
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
    if (isErrno(err, 'ENOENT', 'ESRCH')) return []; // the process, or its fd, is gone
    throw err;
  }
}
