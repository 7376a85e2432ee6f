import { join } from 'node:path';

/** What one monitor is to do. Paths are absolute. */
export interface MonitorSpec {
  readonly id: string;
  /** A fresh directory with `config.json`, private to this container; the monitor adds the files of `bundleFiles`. */
  readonly bundle: string;
  readonly runtimePath: string;
  /** Where the OCI runtime keeps its state (`--root`). */
  readonly runtimeRoot: string;
  readonly conmonPath: string;
  /** The CRI log file; `undefined` drops what the container prints. */
  readonly logPath: string | undefined;
  /** The monitor leaves a file named by the id here when the container ends; see `readExit`. */
  readonly exitDir: string;
  readonly terminal: boolean;
  readonly stdin: boolean;
  /** Stdin ends for good when the first attached client leaves. */
  readonly stdinOnce: boolean;
  /** `cgroupsPath` in `config.json` is in systemd's form. */
  readonly systemdCgroup?: boolean;
  /** Where the socket lies, for an instant, by which a terminal is handed over; a short path. Default: the bundle. */
  readonly socketDir?: string;
  /** Called before the monitor does anything, with its pid: the place to move it into a cgroup of its own. */
  readonly place?: (monitorPid: number) => Promise<void> | void;
}

/** What a monitor and the runtime put into the bundle. `oom` exists once something in the container was killed for memory. */
export function bundleFiles(bundle: string) {
  return {
    attach: join(bundle, 'attach'),
    control: join(bundle, 'ctl'),
    monitorPid: join(bundle, 'conmon.pid'),
    initPid: join(bundle, 'pidfile'),
    oom: join(bundle, 'oom'),
  } as const;
}

/** File descriptors of the monitor, beside stdio: where it reports, and where it waits for the word to start. */
export const MONITOR_FDS = { report: 3, gate: 4 } as const;

/** The environment that tells conmon of its pipes. Its console socket goes to TMPDIR. Source: conmon's main(). */
export function monitorEnv(spec: MonitorSpec): Record<string, string> {
  return { _OCI_SYNCPIPE: String(MONITOR_FDS.report), _OCI_STARTPIPE: String(MONITOR_FDS.gate), TMPDIR: spec.socketDir ?? spec.bundle };
}

/** The command line of conmon 2.1 for `create`. */
export function monitorArgs(spec: MonitorSpec): string[] {
  const files = bundleFiles(spec.bundle);
  const args = ['-b', spec.bundle, '-c', spec.id, '-u', spec.id, '-n', spec.id, '-r', spec.runtimePath];
  args.push('--runtime-arg', `--root=${spec.runtimeRoot}`);
  args.push('-l', spec.logPath === undefined ? 'none' : `k8s-file:${spec.logPath}`);
  args.push('--exit-dir', spec.exitDir, '-P', files.monitorPid, '-p', files.initPid);
  // Without --full-attach the socket would lie in a shared directory. An fsync of the log would hold back the exit code.
  args.push('--full-attach', '--no-sync-log', '--log-level', 'error');
  if (spec.systemdCgroup === true) args.push('--systemd-cgroup');
  if (spec.terminal) args.push('-t');
  if (spec.stdin) {
    args.push('-i');
    if (!spec.stdinOnce) args.push('--leave-stdin-open');
  }
  return args;
}

const SOCKET_PATH_MAX = 107;

/** Why conmon could not serve this spec, in words; `undefined` when nothing speaks against it. */
export function refusal(spec: MonitorSpec): string | undefined {
  // sockaddr_un holds 108 bytes with the final NUL, unix(7). The console socket is `conmon-term.` and six characters.
  const sockets = [bundleFiles(spec.bundle).attach, ...(spec.terminal ? [join(spec.socketDir ?? spec.bundle, 'conmon-term.XXXXXX')] : [])];
  for (const socket of sockets) {
    const length = Buffer.byteLength(socket);
    if (length > SOCKET_PATH_MAX) return `socket path ${socket} is ${length} bytes long, more than ${SOCKET_PATH_MAX}`;
  }
  // conmon takes a colon for the end of the path and would log to another file.
  if (spec.logPath?.includes(':') === true) return `log path ${spec.logPath} holds a colon`;
  return undefined;
}
