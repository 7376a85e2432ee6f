import { readdir, readFile } from 'node:fs/promises';
import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { identifyProcess, isAlive, type ProcessIdentity, signalProcess } from '#base/process.ts';

/**
 * Waits for the end of plugins that still run for these pods after the daemon that had executed them died, and kills those
 * that take too long, with what they started: a DEL beside an ADD that goes on would leave behind what the ADD makes last.
 * One that is killed may leave what no DEL finds, hence the patience. They are told by `CNI_CONTAINERID` in their
 * environment, which children inherit.
 */
export async function endOrphanedPlugins(ids: ReadonlySet<string>, { graceMs = 2_000, timeoutMs = 5_000 } = {}): Promise<void> {
  if (ids.size === 0) return;
  const begun = performance.now();
  const deadline = begun + graceMs + timeoutMs;
  for (;;) {
    const orphans = (await Promise.all((await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map((name) => pluginOf(Number(name), ids)))).filter(
      (orphan) => orphan !== undefined,
    );
    while (orphans.some(isAlive) && performance.now() < begun + graceMs) await sleep(5);
    if (performance.now() >= begun + graceMs) for (const orphan of orphans) signalProcess(orphan, 'SIGKILL');
    while (orphans.some(isAlive) && performance.now() < deadline) await sleep(5);
    // A child may have been born between the look and the end.
    if (orphans.length === 0 || performance.now() > deadline) return;
  }
}

async function pluginOf(pid: number, ids: ReadonlySet<string>): Promise<ProcessIdentity | undefined> {
  let environment: string;
  try {
    environment = await readFile(`/proc/${pid}/environ`, 'latin1');
  } catch (err) {
    // Gone, a kernel thread, or not ours to read.
    if (isErrno(err, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM')) return undefined;
    throw err;
  }
  const id = environment
    .split('\0')
    .find((entry) => entry.startsWith('CNI_CONTAINERID='))
    ?.slice('CNI_CONTAINERID='.length);
  return id !== undefined && ids.has(id) ? identifyProcess(pid) : undefined;
}
