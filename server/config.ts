import type { LogLevel } from '#base/log.ts';

/** One `[runtime.runtimes.NAME]` table. */
export interface RuntimeHandler {
  /** Absolute path of the OCI runtime's binary. */
  readonly runtimePath: string;
  /** Where that runtime keeps its state; on tmpfs. Default `<runroot>/runtimes/<NAME>`. */
  readonly runtimeRoot: string;
  /** Privileged containers of this handler do not get the host's devices. Default false. */
  readonly privilegedWithoutHostDevices: boolean;
}

/** The daemon's whole configuration: every field set, nothing mutable. Times are in milliseconds, sizes in bytes. */
export interface Config {
  /** Images, layers, records: survives a reboot. Default `/var/lib/berth`. */
  readonly root: string;
  /** Bundles, exit files, the socket's directory: gone after a reboot. Default `/run/berth`. */
  readonly runroot: string;
  readonly logLevel: LogLevel;
  readonly api: {
    /** Path of the unix socket. Default `<runroot>/berth.sock`. */
    readonly listen: string;
    readonly grpcMaxRecvMsgSize: number;
    readonly grpcMaxSendMsgSize: number;
  };
  readonly runtime: {
    readonly defaultRuntime: string;
    readonly runtimes: Readonly<Record<string, RuntimeHandler>>;
    /** Resolved: where the file says nothing, `systemd` if systemd runs as init, else `cgroupfs`. */
    readonly cgroupManager: 'systemd' | 'cgroupfs';
    /** Path of the conmon binary. Default: found on PATH. */
    readonly conmon: string;
    /** The cgroup monitors are moved to, as a cgroupfs path below each controller; empty leaves them in the daemon's own. */
    readonly monitorCgroup: string;
    /** Pinned namespaces lie in `netns`, `ipcns` and `utsns` below it. Default `/run`. */
    readonly namespacesDir: string;
    /** No pause process for pods that do not share a PID namespace. Default false. */
    readonly dropInfraCtr: boolean;
    /** With `CAP_`, upper case. */
    readonly defaultCapabilities: readonly string[];
    readonly defaultSysctls: Readonly<Record<string, string>>;
    /** `NAME=value`, below the image's and the request's. */
    readonly defaultEnv: readonly string[];
    /** Absolute path of the profile for RuntimeDefault; empty for the built-in one. */
    readonly seccompProfile: string;
    /** Processes a container may have; 0 sets no limit. */
    readonly pidsLimit: number;
    /** How long a creation may be in flight before it is undone. Default 240,000. */
    readonly creationTimeoutMs: number;
    /** How long what nobody has claimed is kept for a retry. Default 300,000. */
    readonly unclaimedTimeoutMs: number;
  };
  readonly image: {
    /** Image of the pause process; empty for the built-in one. */
    readonly pauseImage: string;
    /** Its command line, split at blanks; empty for the image's own. */
    readonly pauseCommand: readonly string[];
    /** Static binary of the built-in pause, run with `-P`. Default `/usr/bin/catatonit`. */
    readonly pauseBinary: string;
    /** Credentials for pulls that bring none: a `config.json`/`auth.json`; empty for none. */
    readonly globalAuthFile: string;
    readonly pauseImageAuthFile: string;
    /** `registries.conf`, version 2; its drop-ins lie in `<path>.d`. Default `/etc/containers/registries.conf`. */
    readonly registriesConf: string;
    readonly pinnedImages: readonly string[];
    readonly maxParallelDownloads: number;
    /** A pull that receives no byte for so long is cancelled. Default 60,000. */
    readonly pullProgressTimeoutMs: number;
  };
  readonly network: {
    /** Name of the CNI network; empty for the first valid file. */
    readonly cniDefaultNetwork: string;
    /** Default `/etc/cni/net.d`. */
    readonly networkDir: string;
    /** Default `/opt/cni/bin`, `/usr/libexec/cni`, `/usr/lib/cni`. */
    readonly pluginDirs: readonly string[];
    /** Of the whole chain. Default 90,000. */
    readonly cniAddTimeoutMs: number;
    /** Default 60,000. */
    readonly cniDelTimeoutMs: number;
  };
  readonly metrics: {
    readonly enableMetrics: boolean;
    readonly metricsHost: string;
    /** 0 picks a free port. Default 9090. */
    readonly metricsPort: number;
    /** Path of a unix socket to serve metrics on as well; empty for none. */
    readonly metricsSocket: string;
  };
}
