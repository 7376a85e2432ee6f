import { readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';
import { umount } from '#base/sys.ts';
import type { Machine } from './machine.ts';

/**
 * Takes away by force what bears the mark, after it has been reported, so that one failing test does not fail all that
 * come after it.
 */
export async function sweep(now: Machine, { mark, directory }: { mark: string; directory: string }): Promise<void> {
  for (const line of now.processes.filter((text) => text.includes(mark))) attempt(() => process.kill(Number(line.split('\t')[0]), 'SIGKILL'));
  for (const line of now.mounts.filter((text) => text.includes(mark)).reverse()) attempt(() => umount(mountPoint(line), 2));
  for (const line of now.links.filter((text) => text.includes(mark))) {
    await run('ip', ['link', 'del', line.split(/[:@]/)[0] ?? ''], { signal: AbortSignal.timeout(10_000) }).catch(() => {});
  }
  await removeRules(mark);
  removeCgroups(mark);
  attempt(() => rmSync(directory, { recursive: true, force: true }));
}

/** Removes the address translation rules whose comment has the word in it, and the chains that only they lead to. */
export async function removeRules(word: string): Promise<void> {
  const script = `
    rules=$(iptables -t nat -S | grep -F '${word}')
    echo "$rules" | sed -n 's/^-A/iptables -t nat -D/p' | sh
    echo "$rules" | grep -o 'CNI-[A-Za-z0-9-]*[0-9a-f]\\{16,\\}' | sort -u | while read -r chain; do
      iptables -t nat -F "$chain" && iptables -t nat -X "$chain"
    done`;
  await run('/bin/sh', ['-c', script], { signal: AbortSignal.timeout(30_000) }).catch(() => {});
}

/** Removes the cgroups below `/<mark>` in every hierarchy, the innermost first. Those with processes stay. */
export function removeCgroups(mark: string): void {
  for (const hierarchy of cgroupHierarchies()) removeEmptyTree(join(hierarchy, mark));
}

/** Roots of the cgroup hierarchies: of v2, and of every v1 controller. */
export function cgroupHierarchies(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => line.split(' ')[4] ?? '');
}

function removeEmptyTree(path: string): void {
  try {
    for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) removeEmptyTree(join(path, entry.name));
    rmdirSync(path);
  } catch (err) {
    if (!isErrno(err, 'ENOENT', 'EBUSY', 'ENOTEMPTY')) throw err;
  }
}

/** mountinfo writes blanks and the like as octal numbers. */
function mountPoint(line: string): string {
  return (line.split(' ')[0] ?? '').replace(/\\(\d{3})/g, (_all, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

function attempt(work: () => void): void {
  try {
    work();
  } catch {
    // gone already, or busy: the next one who compares will see it
  }
}
