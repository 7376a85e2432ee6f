import type { OciMount } from './spec.ts';

export interface DefaultMountsInput {
  readonly privileged: boolean;
  readonly readonlyRootfs: boolean;
  readonly resolvConf: string;
  readonly hostnameFile: string;
  /** Host path, `undefined` for a /dev/shm of the container's own. */
  readonly shmDir: string | undefined;
  /**
   * Kinds that the pod shares with the node although it has a user namespace of its own: the kernel lets nobody mount
   * their file systems anew from in there, so that they show the node's, which is the same.
   */
  readonly boundFromHost?: readonly ('proc' | 'sys' | 'mqueue')[];
  /** The node's /etc/hosts belongs in a container on the node's network, where the kubelet gives none. */
  readonly hostNetwork: boolean;
}

const QUIET = ['nosuid', 'noexec', 'nodev'];

/**
 * What every container has before the request's mounts. A read-only root gets no writable /run or /tmp: who asks for
 * readOnlyRootFilesystem mounts an emptyDir where the program writes, and that one is accounted.
 */
export function defaultMounts(input: DefaultMountsInput): readonly OciMount[] {
  const access = input.privileged ? 'rw' : 'ro';
  const file = (source: string, destination: string): OciMount => bindMount(source, destination, [...QUIET, input.readonlyRootfs ? 'ro' : 'rw']);
  const shm: OciMount =
    input.shmDir === undefined
      ? { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: [...QUIET, 'mode=1777', 'size=65536k'] }
      : bindMount(input.shmDir, '/dev/shm', [...QUIET, 'rw']);
  const bound = input.boundFromHost ?? [];
  return [
    bound.includes('proc') ? bindMount('/proc', '/proc', QUIET) : { destination: '/proc', type: 'proc', source: 'proc', options: QUIET },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
    { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'] },
    bound.includes('mqueue')
      ? bindMount('/dev/mqueue', '/dev/mqueue', QUIET)
      : { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: QUIET },
    bound.includes('sys')
      ? bindMount('/sys', '/sys', [...QUIET, access])
      : { destination: '/sys', type: 'sysfs', source: 'sysfs', options: [...QUIET, access] },
    { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: [...QUIET, 'relatime', access] },
    shm,
    file(input.resolvConf, '/etc/resolv.conf'),
    file(input.hostnameFile, '/etc/hostname'),
    ...(input.hostNetwork ? [file('/etc/hosts', '/etc/hosts')] : []),
  ];
}

export function bindMount(source: string, destination: string, options: readonly string[]): OciMount {
  return { destination, type: 'bind', source, options: ['rbind', 'rprivate', ...options] };
}

/**
 * The defaults that the request leaves room for, and the request's, parents first. A mount of its own on /dev or /sys
 * takes away what would have been mounted below it too: that is the host's tree then, with all in it.
 */
export function mergeMounts(defaults: readonly OciMount[], requested: readonly OciMount[]): readonly OciMount[] {
  const taken = new Set(requested.map(({ destination }) => destination));
  const trees = ['/dev', '/sys'].filter((tree) => taken.has(tree));
  const kept = defaults.filter(({ destination }) => !taken.has(destination) && !trees.some((tree) => destination.startsWith(`${tree}/`)));
  return [...kept, ...requested].toSorted((a, b) => depth(a) - depth(b)); // stable: equals keep the request's order
}

function depth({ destination }: OciMount): number {
  return destination.split('/').length;
}
