import { readFileSync } from 'node:fs';
import { describeError, isErrno } from '#base/errors.ts';
import { run } from '#base/exec.ts';

/** The profile of containers that ask for none, or for the runtime's. */
export const DEFAULT_PROFILE = 'berth-default';

/**
 * What root in a container may not do although its capabilities and its mounts would let it: mount, change the node's
 * settings where somebody has left /proc or /sys writable, look into processes outside. Everything else is left to the
 * other locks. It includes nothing, so that it loads wherever there is a parser. Source: apparmor.d(5).
 */
export const PROFILE_TEXT = `profile ${DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  network,
  umount,
  deny mount,

  # Inside the container everything; from outside the runtime, which some distributions confine by these names.
  ptrace (read,readby,trace,tracedby) peer=${DEFAULT_PROFILE},
  signal (receive,send) peer=${DEFAULT_PROFILE},
  signal receive peer={unconfined,runc,crun,conmon},

  # The kernel's memory and switches.
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,
  deny /proc/{acpi,bus,fs,irq,scsi}/** wl,
  # What belongs to the node; shm*, msg*, sem, hostname and domainname belong to the pod, as does all of net.
  deny /proc/sys/{abi,debug,dev,fs,user,vm}/** wl,
  deny /proc/sys/kernel/{[^dhms]*,d[^o]*,h[^o]*,hotplug,m[^s]*,s[^eh]*,seccomp/**} wl,
  deny /proc/sys/kernel/[^s]*/** wl,

  deny /sys/[^f]*/** wl,
  deny /sys/f[^s]*/** wl,
  deny /sys/fs/[^c]*/** wl,
  deny /sys/fs/c[^g]*/** wl,
  deny /sys/{firmware,devices/virtual/powercap,kernel/security}/** rwklx,
}
`;

const LOADED = '/sys/kernel/security/apparmor/profiles';
const LOAD_MS = 30_000;

/**
 * Loads Berth's own profile into the kernel, in place of an earlier version of it. Returns its name, or why it is not
 * there: without a parser, or without the right to load, containers run unconfined as they do with other runtimes.
 */
export async function loadDefaultProfile(signal: AbortSignal): Promise<{ readonly name: string } | { readonly problem: string }> {
  try {
    await run('apparmor_parser', ['--replace', '--skip-cache'], { input: PROFILE_TEXT, signal: AbortSignal.any([signal, AbortSignal.timeout(LOAD_MS)]) });
    return { name: DEFAULT_PROFILE };
  } catch (err) {
    signal.throwIfAborted();
    // Another one may have loaded it.
    return isProfileLoaded(DEFAULT_PROFILE) ? { name: DEFAULT_PROFILE } : { problem: describeError(err) };
  }
}

/** Whether the kernel knows a profile. Where it does not let us look, the runtime's own failure has to do. Synchronous: some lines of securityfs. */
export function isProfileLoaded(name: string, file = LOADED): boolean {
  try {
    return readFileSync(file, 'utf8')
      .split('\n')
      .some((line) => line.replace(/ \([a-z]+\)$/, '') === name);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'EACCES', 'EPERM')) return true;
    throw err;
  }
}
