import { orAbandoned } from '#base/abort.ts';
import { CriError, isErrno, quote } from '#base/errors.ts';
import { CommandError, type Run } from '#base/exec.ts';
import { isObject } from './conf.ts';

export type Verb = 'ADD' | 'DEL' | 'CHECK' | 'STATUS' | 'GC';

/** One execution of a plugin. */
export interface PluginCall {
  readonly verb: Verb;
  /** The plugin's type, which is the name of its binary. */
  readonly plugin: string;
  readonly path: string;
  readonly network: string;
  readonly env: Readonly<Record<string, string>>;
  /** The plugin's configuration for this call, in JSON. */
  readonly input: string;
}

/** One execution of a plugin that has ended, for metrics and timelines. */
export interface PluginRun {
  readonly verb: Verb | 'VERSION';
  readonly plugin: string;
  readonly network: string;
  readonly seconds: number;
  /** Absent when it succeeded. */
  readonly error?: string;
}

/** The time that the whole chain has, of which this call is a part. */
export interface Limit {
  readonly ms: number;
  readonly signal: AbortSignal;
}

/** A plugin that failed, could not be executed, or answered with something else than the specification asks for. */
export class CniError extends Error {
  override readonly name = 'CniError';
  readonly verb: Verb;
  readonly plugin: string;
  readonly network: string;
  /** `code` of the plugin's error object. 1–99 are the specification's (11: try again later), others its own. */
  readonly pluginCode: number | undefined;

  constructor({ verb, plugin, network }: Pick<PluginCall, 'verb' | 'plugin' | 'network'>, what: string, options: ErrorOptions & { pluginCode?: number } = {}) {
    super(`CNI ${verb} by plugin ${plugin} (network ${network}): ${what}`, options);
    this.verb = verb;
    this.plugin = plugin;
    this.network = network;
    this.pluginCode = options.pluginCode;
  }
}

/** More than any result needs; a plugin that prints more is broken. */
const MAX_OUTPUT_BYTES = 4 * 1024 * 1024;

/** How long a killed plugin may take to be gone. `run` sends KILL after 2 s; a child that left its group may keep the pipes open for ever. */
const DEATH_MS = 4_000;

/**
 * Executes a plugin and returns its stdout. When the limit or the caller's signal fires, the plugin and its children
 * are killed.
 * @throws {CniError} when the plugin fails.
 * @throws {CriError} `deadlineExceeded` when the limit fired.
 * @throws the reason of the caller's signal.
 */
export async function callPlugin(call: PluginCall, { run, limit, signal }: { run: Run; limit: Limit; signal: AbortSignal }): Promise<string> {
  const either = AbortSignal.any([signal, limit.signal]);
  try {
    const running = run(call.path, [], { signal: either, env: call.env, input: call.input, hot: true, maxOutputBytes: MAX_OUTPUT_BYTES });
    const { stdout } = await orAbandoned(running, either, DEATH_MS);
    const failed = parseFailure(stdout);
    if (failed !== undefined) throw new CniError(call, failed.text, { pluginCode: failed.code });
    return stdout;
  } catch (err) {
    if (err instanceof CniError) throw err;
    if (either.aborted && err === either.reason) {
      if (signal.aborted) throw signal.reason;
      throw new CriError('deadlineExceeded', `CNI ${call.verb} by plugin ${call.plugin} (network ${call.network}) did not finish within ${limit.ms / 1000} s`, {
        cause: err,
      });
    }
    throw explain(call, err);
  }
}

function explain(call: PluginCall, err: unknown): CniError {
  const system = err instanceof CommandError ? err.cause : err;
  if (isErrno(system, 'ENOENT')) return new CniError(call, `${call.path} is not there, or its interpreter is not`, { cause: err });
  if (isErrno(system, 'EACCES')) return new CniError(call, `${call.path} is not executable`, { cause: err });
  if (!(err instanceof CommandError)) return new CniError(call, err instanceof Error ? err.message : String(err), { cause: err });
  const failed = parseFailure(err.stdout);
  if (failed === undefined) {
    const printed = err.stdout.trim();
    return new CniError(call, `${err.message}${printed === '' ? '' : `; it printed ${quote(printed)}`}`, { cause: err });
  }
  const stderr = oneLine(err.stderr);
  // The cause is left out: its text would say all of this again.
  return new CniError(call, `${failed.text}${stderr === '' ? '' : `; stderr: ${stderr}`}`, { pluginCode: failed.code });
}

/** The error object of CNI spec 1.1, section 5; `undefined` where the plugin printed none. */
function parseFailure(stdout: string): { code: number; text: string } | undefined {
  if (!stdout.includes('"code"')) return undefined;
  let raw: unknown;
  try {
    raw = JSON.parse(stdout);
  } catch {
    return undefined;
  }
  if (!isObject(raw) || typeof raw.code !== 'number' || raw.code === 0) return undefined;
  const msg = oneLine(String(raw.msg ?? '')) || 'failed without a message';
  const details = oneLine(String(raw.details ?? ''));
  return { code: raw.code, text: `${msg} (code ${raw.code})${details === '' ? '' : `: ${details}`}` };
}

/** For a message: blanks and line ends are one blank, and no more than 2,000 characters. */
function oneLine(text: string): string {
  const line = text.trim().replace(/\s+/g, ' ');
  return line.length <= 2_000 ? line : `${line.slice(0, 1_999)}…`;
}
