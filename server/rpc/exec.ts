import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, invalidField } from '#base/errors.ts';
import type { Handler } from '../call.ts';
import { execSync as runExecSync } from '../container/exec.ts';
import type { Parts } from '../parts.ts';
import type { StreamOptions } from '../stream/session.ts';
import { requireContainer } from './lookup.ts';

/** Longest time that a timer can wait; longer timeouts are as good as none. */
const MAX_TIMEOUT_SECONDS = 2_147_483;

/** `timeout` is in seconds; 0 waits for ever. */
export const execSync =
  (parts: Parts): Handler<'ExecSync'> =>
  async ({ container_id, cmd, timeout }, { signal, stage }) => {
    const { id, state, handler, cgroup } = await requireContainer(parts, container_id);
    if (state.name !== 'running') throw new CriError('failedPrecondition', `container ${id} is ${state.name}: a command needs a running one`);
    const seconds = Number(timeout);
    if (seconds < 0) throw new CriError('invalidArgument', `timeout: ${timeout} is negative`);
    const { runtimePath = '', runtimeRoot = '' } = parts.config.runtime.runtimes[handler] ?? {};
    const bundle = parts.paths.bundle(id);
    stage.name = `a command in container ${id}`;
    const target = {
      id,
      runtimePath,
      runtimeRoot,
      bundle,
      init: state.init,
      cgroupProcs: () => parts.cgroups.procs(cgroup),
      process: await ociProcess(bundle),
    };
    const { stdout, stderr, exitCode } = await runExecSync(target, cmd, { timeoutMs: seconds > MAX_TIMEOUT_SECONDS ? 0 : seconds * 1000, signal });
    return { stdout, stderr, exit_code: exitCode };
  };

export const exec =
  (parts: Parts): Handler<'Exec'> =>
  async (request) => {
    const { container_id, cmd } = request;
    checkStreams(request);
    if (cmd.length === 0) throw invalidField('cmd', cmd, 'is empty');
    const { id, state } = await requireContainer(parts, container_id);
    if (state.name !== 'running') throw new CriError('failedPrecondition', `container ${id} is ${state.name}: a command needs a running one`);
    throw new CriError('unimplemented', 'Exec is not implemented by this version of Berth');
  };

export const attach =
  (parts: Parts): Handler<'Attach'> =>
  async (request) => {
    checkStreams(request);
    const { id, state } = await requireContainer(parts, request.container_id);
    if (state.name !== 'running') throw new CriError('failedPrecondition', `container ${id} is ${state.name}: only a running one can be attached to`);
    throw new CriError('unimplemented', 'Attach is not implemented by this version of Berth');
  };

/** api.proto, ExecRequest: one stream at least, and with a terminal no stderr, which the terminal has merged into stdout. */
function checkStreams({ stdin, stdout, stderr, tty }: StreamOptions): void {
  if (tty && stderr) throw invalidField('stderr', stderr, 'cannot be asked for with a terminal: it is part of stdout there');
  if (!stdin && !stdout && !stderr) throw new CriError('invalidArgument', 'stdin, stdout, stderr: one of them must be true');
}

/** The container's own process: its user, environment and rights are the command's too. */
async function ociProcess(bundle: string): Promise<object> {
  return (JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8')) as { process: object }).process;
}
