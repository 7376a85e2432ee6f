import { describeError } from '#base/errors.ts';
import { CommandError, type Run } from '#base/exec.ts';
import type { Log } from '#base/log.ts';

/** Another one may change the table between the look and the change. */
const ATTEMPTS = 3;

/**
 * Removes what of a pod's rules is left in iptables' nat table after a DEL that was not whole: the reference plugins
 * `bridge` and `ptp` forget a pod's masquerading when its namespace or its interface is gone, as after a DEL that was killed
 * half way. Their rules bear the pod's id in a comment (`name: "NETWORK" id: "ID"`), and lead to a chain of its own.
 * Failures are logged: the pod is off its network all the same.
 */
export async function removeLeftRules(id: string, { run, log, signal }: { readonly run: Run; readonly log: Log; readonly signal: AbortSignal }): Promise<void> {
  for (const family of ['iptables', 'ip6tables']) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        const { stdout } = await run(`${family}-save`, ['-t', 'nat'], { signal });
        const changes = planRemoval(stdout, id);
        if (changes === undefined) break;
        await run(`${family}-restore`, ['--noflush', '-w', '5'], { signal, input: changes });
        log.info({ sandboxId: id, step: family }, 'Removed rules that plugins had left');
        break;
      } catch (err) {
        signal.throwIfAborted();
        if (!(err instanceof CommandError)) throw err;
        if (err.exitCode === undefined) break; // not installed: then no plugin has used it
        if (attempt < ATTEMPTS) continue;
        log.warn({ sandboxId: id, reason: describeError(err) }, 'Could not remove rules that plugins had left');
        break;
      }
    }
  }
}

/** Input for iptables-restore(8) that removes a pod's rules and its chains; `undefined` where there are none. */
export function planRemoval(saved: string, id: string): string | undefined {
  const lines = saved.split('\n');
  const own = lines.filter((line) => line.startsWith('-A ') && line.includes(`id: \\"${id}\\"`));
  if (own.length === 0) return undefined;
  // Chains that only the pod's rules lead to; `CNI-HOSTPORT-…` are everybody's.
  const targets = new Set(own.flatMap((line) => / -j (CNI-(?!HOSTPORT-)\S+)$/.exec(line)?.[1] ?? []));
  const chains = [...targets].filter((chain) => !lines.some((line) => line.endsWith(` -j ${chain}`) && !own.includes(line)));
  const kept = own.filter((line) => !chains.includes(line.split(' ')[1] ?? ''));
  return [
    '*nat',
    ...kept.map((line) => line.replace('-A ', '-D ')),
    ...chains.map((chain) => `-F ${chain}`),
    ...chains.map((chain) => `-X ${chain}`),
    'COMMIT',
    '',
  ].join('\n');
}
