import { run } from '#base/exec.ts';
import type { Daemon } from './daemon.ts';
import { findTool } from './tool.ts';

/** Runs the real crictl against a daemon; returns what it prints on stdout. `undefined` where it is not installed. */
export function crictlFor(daemon: Pick<Daemon, 'socket' | 'directory'>): ((...args: readonly string[]) => Promise<string>) | undefined {
  const crictl = findTool('crictl');
  if (crictl === undefined) return undefined;
  return async (...args) => {
    const endpoint = ['--config', '/dev/null', '--runtime-endpoint', `unix://${daemon.socket}`, '--image-endpoint', `unix://${daemon.socket}`];
    const timeout = args[0] === '-t' ? [] : ['-t', '60s'];
    const { stdout } = await run(crictl, [...endpoint, ...timeout, ...args], { signal: AbortSignal.timeout(90_000), cwd: daemon.directory });
    return stdout;
  };
}
