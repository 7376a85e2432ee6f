import { CriError, invalidField } from '#base/errors.ts';
import type { Handler } from '../call.ts';
import { attachSession } from '../container/attach.ts';
import { execSync as runExecSync } from '../container/exec.ts';
import { execSession } from '../container/exec-session.ts';
import { execTarget, requireExecutable } from '../container/exec-target.ts';
import { execTerminal } from '../container/exec-terminal.ts';
import { Viewers } from '../container/viewers.ts';
import type { Parts } from '../parts.ts';
import type { StreamOptions } from '../stream/session.ts';
import { requireContainer } from './lookup.ts';

/** Longest time that a timer can wait; longer timeouts are as good as none. */
const MAX_TIMEOUT_SECONDS = 2_147_483;

/** `timeout` is in seconds; 0 waits for ever. */
export const execSync =
  (parts: Parts): Handler<'ExecSync'> =>
  async ({ container_id, cmd, timeout }, { signal, stage }) => {
    const { id } = await requireContainer(parts, container_id);
    const seconds = Number(timeout);
    if (seconds < 0) throw new CriError('invalidArgument', `timeout: ${timeout} is negative`);
    stage.name = `a command in container ${id}`;
    const target = await execTarget(parts, id);
    const { stdout, stderr, exitCode } = await runExecSync(target, cmd, { timeoutMs: seconds > MAX_TIMEOUT_SECONDS ? 0 : seconds * 1000, signal });
    return { stdout, stderr, exit_code: exitCode };
  };

/** The container is looked at twice: now, for an answer that says why, and when the client comes. */
export const exec =
  (parts: Parts): Handler<'Exec'> =>
  async (request) => {
    const { container_id, cmd, stdin, stdout, stderr, tty } = request;
    checkStreams(request);
    if (cmd.length === 0) throw invalidField('cmd', cmd, 'is empty');
    const { id } = await requireContainer(parts, container_id);
    requireExecutable(parts, id);
    const terminal = { conmonPath: parts.config.runtime.conmon, directory: parts.paths.execs };
    const url = parts.streams.exec({ stdin, stdout, stderr, tty }, async (session) => {
      const target = await execTarget(parts, id);
      return tty ? execTerminal(target, cmd, session, terminal) : execSession(target, cmd, session);
    });
    return { url };
  };

/** Looks at the container twice as `exec` does. */
export const attach = (parts: Parts): Handler<'Attach'> => {
  const viewers = new Viewers(parts.signal);
  const target = (id: string): Parameters<typeof attachSession>[0] => {
    const record = parts.containers.get(id);
    if (record === undefined || parts.doomed.has(id)) throw new CriError('notFound', `container ${id} does not exist`);
    const { state, stdin, stdinOnce, terminal } = record;
    if (state.name !== 'running') throw new CriError('failedPrecondition', `container ${id} is ${state.name}: only a running one can be attached to`);
    return { id, bundle: parts.paths.bundle(id), stdin, stdinOnce, terminalOf: terminal ? state.monitor.pid : undefined, viewers };
  };
  return async (request) => {
    const { container_id, stdin, stdout, stderr, tty } = request;
    checkStreams(request);
    const { id } = await requireContainer(parts, container_id);
    target(id);
    const url = parts.streams.attach({ stdin, stdout, stderr, tty }, async (session) => {
      await attachSession(target(id), session);
      return undefined;
    });
    return { url };
  };
};

/** api.proto, ExecRequest: one stream at least, and with a terminal no stderr, which the terminal has merged into stdout. */
function checkStreams({ stdin, stdout, stderr, tty }: StreamOptions): void {
  if (tty && stderr) throw invalidField('stderr', stderr, 'cannot be asked for with a terminal: it is part of stdout there');
  if (!stdin && !stdout && !stderr) throw new CriError('invalidArgument', 'stdin, stdout, stderr: one of them must be true');
}
