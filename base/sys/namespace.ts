import { closeSync, openSync } from 'node:fs';
import { check, libc } from './libc.ts';

const native = {
  setns: libc.func('int setns(int, int)'),
  sethostname: libc.func('int sethostname(const char*, size_t)'),
};

/** Namespace kinds as in /proc/PID/ns. */
export type NamespaceKind = 'net' | 'uts' | 'ipc';

/**
 * Runs `work` with the calling thread inside the namespaces at `paths`, in one synchronous step: nothing else of the
 * process runs meanwhile. `work` must not wait and should take microseconds.
 */
export function inNamespaces<T>(paths: Readonly<Partial<Record<NamespaceKind, string>>>, work: () => T): T {
  const home: { kind: string; fd: number }[] = [];
  try {
    for (const [kind, path] of Object.entries(paths)) {
      const there = openSync(path, 'r');
      try {
        home.push({ kind, fd: openSync(`/proc/thread-self/ns/${kind}`, 'r') });
        check(native.setns(there, 0), 'setns', path);
      } finally {
        closeSync(there);
      }
    }
    return work();
  } finally {
    for (const { fd } of home) {
      // A daemon left in a pod's namespace would do harm everywhere: better none at all.
      if (native.setns(fd, 0) < 0) process.abort();
      closeSync(fd);
    }
  }
}

/** The host name of the UTS namespace the thread is in; see `inNamespaces`. */
export function sethostname(name: string): void {
  check(native.sethostname(name, Buffer.byteLength(name)), 'sethostname', name);
}
