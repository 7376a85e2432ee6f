import { delimiter } from 'node:path';

/** What the service manager and the caller's environment tell the daemon. */
export interface Environment {
  /** Where sd_notify(3) messages go; a path, or an abstract one that begins with `@`. */
  readonly notifySocket: string | undefined;
  /** How often systemd wants to hear from us; see sd_watchdog_enabled(3). */
  readonly watchdogMs: number | undefined;
  /** Those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY that are set, in either case. */
  readonly proxy: Readonly<Record<string, string>>;
  /** Directories that programs are looked for in. */
  readonly path: readonly string[];
}

/** The only look at the environment. An empty variable counts as none, and so does a watchdog meant for another process. */
export function readEnvironment(env: NodeJS.ProcessEnv = process.env, pid = process.pid): Environment {
  const usec = Number(env.WATCHDOG_USEC);
  const meant = env.WATCHDOG_PID === undefined || Number(env.WATCHDOG_PID) === pid;
  return {
    notifySocket: env.NOTIFY_SOCKET || undefined,
    watchdogMs: meant && usec > 0 ? usec / 1_000 : undefined,
    proxy: proxyVariables(env),
    path: (env.PATH || '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin').split(delimiter).filter((dir) => dir.startsWith('/')),
  };
}

/** The variables that may name a proxy, in either case: nothing else of the environment goes to where pulls run. */
function proxyVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  const names = ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY'].flatMap((name) => [name, name.toLowerCase()]);
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}
