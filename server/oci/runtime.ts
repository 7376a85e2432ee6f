import { readdir } from 'node:fs/promises';
import { orAbandoned, withTimeout } from '#base/abort.ts';
import { CriError, isErrno } from '#base/errors.ts';
import { CommandError, run } from '#base/exec.ts';

/** What the runtime says of a container. A paused one counts as `running`: it holds its processes and can be killed. */
export interface OciState {
  readonly status: 'creating' | 'created' | 'running' | 'stopped';
  /** Of the container's first process, in the daemon's PID namespace; 0 when it is stopped. */
  readonly pid: number;
}

/** What a handler can do, by its own word. All false where it has no `features` verb (crun < 1.9, runc < 1.1). */
export interface RuntimeFeatures {
  /** False: it was not asked or could not answer, so the rest is only the careful assumption. */
  readonly answered: boolean;
  /** User namespaces together with the idmapped mounts that the kubelet's pods need with them. */
  readonly userNamespaces: boolean;
  readonly idmappedMounts: boolean;
  /** The `rro` mount option. The kernel has to have mount_setattr(2) (5.12) as well. */
  readonly recursiveReadOnlyMounts: boolean;
  /** Interfaces of the node can be moved into containers. */
  readonly netDevices: boolean;
}

/** Of a runtime that was not asked, or cannot say. */
export const NO_FEATURES: RuntimeFeatures = {
  answered: false,
  userNamespaces: false,
  idmappedMounts: false,
  recursiveReadOnlyMounts: false,
  netDevices: false,
};

interface VerbOptions {
  /** Ends the verb; the call then rejects with the signal's reason. */
  readonly signal: AbortSignal;
}

/**
 * The verbs of one OCI runtime (crun, runc, youki, runsc, …) after `create`, which conmon runs, and beside `exec`.
 * Every verb has a time limit of its own, so that a hung runtime hangs nobody.
 * @throws {CriError} `deadlineExceeded` past that limit, `unknown` with the runtime's own words when a verb fails.
 */
export interface OciRuntime {
  /** Name of the `[runtime.runtimes.NAME]` table. */
  readonly handler: string;
  readonly path: string;
  /** What stands before every verb; conmon hands the same to `create` and `exec`. */
  globalArgs(): readonly string[];
  start(id: string, options: VerbOptions): Promise<void>;
  /**
   * Sends a signal to the container's first process. Success when the container is stopped or unknown to the runtime; what
   * its first process left behind is for `Cgroups.kill`.
   */
  kill(id: string, signal: number, options: VerbOptions): Promise<void>;
  /** Sets limits of a created or running container; `file` holds the `OciResources` that change. */
  update(id: string, file: string, options: VerbOptions): Promise<void>;
  /** Removes the container's state and cgroup; `force` kills it first. Success when it is unknown to the runtime. */
  delete(id: string, options: VerbOptions & { readonly force?: boolean }): Promise<void>;
  /** `undefined` when the container is unknown to the runtime. */
  state(id: string, options: VerbOptions): Promise<OciState | undefined>;
  /** First line of `--version`, such as `crun version 1.8.1`. */
  version(options: VerbOptions): Promise<string>;
  features(options: VerbOptions): Promise<RuntimeFeatures>;
  /** Whether `exec` takes `--cgroup` (crun, runc since 1.1). It is asked once. */
  takesExecCgroup(options: VerbOptions): Promise<boolean>;
}

export interface OciRuntimeOptions {
  readonly handler: string;
  /** Absolute path of the binary. */
  readonly path: string;
  /** Where it keeps its state (`--root`). */
  readonly root: string;
  readonly systemdCgroup: boolean;
  /** Limit of each verb. Default 60,000. */
  readonly timeoutMs?: number;
}

/** Time an aborted verb has to die in before it is left behind: `run` sends TERM, and KILL after 2 s. */
const DEATH_MS = 4_000;

export function createOciRuntime({ handler, path, root, systemdCgroup, timeoutMs = 60_000 }: OciRuntimeOptions): OciRuntime {
  let execCgroup: Promise<boolean> | undefined;
  const globalArgs = [`--root=${root}`, ...(systemdCgroup ? ['--systemd-cgroup'] : [])];

  /** Runs one verb; `subject` is the id, or nothing. */
  async function verb(args: readonly string[], subject: string, { signal }: VerbOptions): Promise<string> {
    const what = `${handler} ${args[0]}${subject === '' ? '' : ` ${subject}`}`;
    const limited = withTimeout(signal, timeoutMs);
    try {
      const { stdout } = await orAbandoned(run(path, [...globalArgs, ...args], { signal: limited, hot: true }), limited, DEATH_MS);
      return stdout;
    } catch (err) {
      signal.throwIfAborted();
      if (limited.aborted) throw new CriError('deadlineExceeded', `${what}: no answer from ${path} within ${timeoutMs / 1000} s`, { cause: err });
      if (!(err instanceof CommandError)) throw err;
      throw new CriError('unknown', `${what}: ${runtimeMessage(err.stderr) || err.message}`, { cause: err });
    }
  }

  /** The way of `kill` and `delete` out of a failure: it was none if the container is as they would have left it. */
  async function unlessGone(err: unknown, id: string, options: VerbOptions, gone: (state: OciState | undefined) => boolean): Promise<void> {
    if (!isVerbFailure(err)) throw err;
    let state: OciState | undefined;
    try {
      state = await runtime.state(id, options);
    } catch {
      options.signal.throwIfAborted();
      throw err; // the first failure tells more
    }
    if (!gone(state)) throw err;
  }

  const runtime: OciRuntime = {
    handler,
    path,
    globalArgs: () => globalArgs,

    start: async (id, options) => {
      await verb(['start', id], id, options);
    },

    kill: async (id, signal, options) => {
      try {
        await verb(['kill', id, String(signal)], id, options);
      } catch (err) {
        await unlessGone(err, id, options, (state) => state === undefined || state.status === 'stopped');
      }
    },

    update: async (id, file, options) => {
      await verb(['update', '--resources', file, id], id, options);
    },

    delete: async (id, { force = false, ...options }) => {
      try {
        await verb(['delete', ...(force ? ['--force'] : []), id], id, options);
      } catch (err) {
        await unlessGone(err, id, options, (state) => state === undefined);
      }
    },

    state: async (id, options) => {
      try {
        return parseState(await verb(['state', id], id, options), `${handler} state ${id}`);
      } catch (err) {
        // Runtimes answer "unknown" and "broken" with the same exit code and words of their own. What they know lies
        // below --root under its id: a directory (crun, runc, youki) or files (runsc).
        if (isVerbFailure(err) && !(await isListed(root, id))) return undefined;
        throw err;
      }
    },

    version: async (options) => {
      const text = await verb(['--version'], '', options);
      return text.split('\n', 1)[0]?.trim() ?? '';
    },

    features: async (options) => {
      try {
        return parseFeatures(await verb(['features'], '', options));
      } catch (err) {
        if (!isVerbFailure(err)) throw err;
        return NO_FEATURES;
      }
    },

    takesExecCgroup: async (options) => {
      execCgroup ??= verb(['exec', '--help'], '', options).then((text) => /\s--cgroup[ =]/.test(text));
      try {
        return await execCgroup;
      } catch (err) {
        if (isVerbFailure(err)) return false;
        execCgroup = undefined; // no answer
        throw err;
      }
    },
  };
  return runtime;
}

/** True when the runtime ran and reported a failure: an answer, in contrast to a time-out or a binary that is not there. */
function isVerbFailure(err: unknown): boolean {
  return err instanceof CriError && err.cause instanceof CommandError && err.cause.exitCode !== undefined;
}

async function isListed(root: string, id: string): Promise<boolean> {
  try {
    return (await readdir(root)).some((name) => name.startsWith(id));
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return false;
    throw err;
  }
}

const STATUSES: Readonly<Record<string, OciState['status']>> = {
  creating: 'creating',
  created: 'created',
  running: 'running',
  paused: 'running',
  stopped: 'stopped',
};

function parseState(stdout: string, what: string): OciState {
  const { status, pid } = parseObject(stdout) ?? {};
  const known = typeof status === 'string' ? STATUSES[status] : undefined;
  if (known === undefined) throw new CriError('unknown', `${what}: not an OCI state: ${stdout.trim().slice(0, 200)}`);
  return { status: known, pid: typeof pid === 'number' ? pid : 0 };
}

/** Source: OCI runtime-spec 1.3, features.md and features-linux.md. */
function parseFeatures(stdout: string): RuntimeFeatures {
  const features = parseObject(stdout);
  if (features === undefined) return NO_FEATURES;
  const { mountOptions, linux } = features as {
    mountOptions?: unknown;
    linux?: { namespaces?: unknown; mountExtensions?: { idmap?: { enabled?: unknown } }; netDevices?: { enabled?: unknown } };
  };
  const idmappedMounts = linux?.mountExtensions?.idmap?.enabled === true;
  return {
    answered: true,
    userNamespaces: idmappedMounts && Array.isArray(linux?.namespaces) && linux.namespaces.includes('user'),
    idmappedMounts,
    recursiveReadOnlyMounts: Array.isArray(mountOptions) && mountOptions.includes('rro'),
    netDevices: linux?.netDevices?.enabled === true,
  };
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * What a runtime printed on stderr, made readable: the messages of its JSON or logfmt lines (errors only, where lines
 * have a level), joined by `: `; other lines as they are. Also for what conmon passes on of `create` and `exec`.
 */
export function runtimeMessage(stderr: string): string {
  const lines = stderr.split('\n').flatMap((line) => (line.trim() === '' ? [] : [parseLogLine(line.trim())]));
  const errors = lines.filter(({ level }) => level === undefined || /^(err|fatal|panic|crit)/i.test(level));
  const chosen = (errors.length > 0 ? errors : lines).map(({ message }) => message);
  return [...new Set(chosen)].join(': ');
}

function parseLogLine(line: string): { readonly message: string; readonly level: string | undefined } {
  if (line.startsWith('{')) {
    const { msg, level } = parseObject(line) ?? {};
    if (typeof msg === 'string') return { message: msg.trim(), level: typeof level === 'string' ? level : undefined };
  }
  const quoted = /(?:^|\s)msg=("(?:[^"\\]|\\.)*"|\S+)/.exec(line)?.[1];
  if (quoted === undefined) return { message: line, level: undefined };
  return { message: unquote(quoted).trim(), level: /(?:^|\s)level=(\w+)/.exec(line)?.[1] };
}

/** logfmt quotes as Go does, which JSON reads but for rare escapes. */
function unquote(text: string): string {
  if (!text.startsWith('"')) return text;
  try {
    return String(JSON.parse(text));
  } catch {
    return text.slice(1, -1);
  }
}
