import { describe, expect, test } from 'vitest';
import { type LinuxContainerSecurityContext, NamespaceMode } from '../../../../proto/cri.ts';
import type { CdiEdits } from '../../../../server/oci/cdi.ts';
import type { ContainerSpecInput, ResolvedContainer } from '../../../../server/oci/container-input.ts';
import { containerArgs, workingDirectory } from '../../../../server/oci/container-process.ts';
import { buildContainerSpec } from '../../../../server/oci/container-spec.ts';
import type { ResolvedMount } from '../../../../server/oci/mounts.ts';
import type { ResolvedUser } from '../../../../server/oci/user.ts';
import { containerConfig, fullHost, image, namespaceOptions, resources, sandboxConfig, specInput } from './requests.ts';

const user: ResolvedUser = { uid: 1000, gid: 1001, additionalGids: [1001, 29], username: 'app', home: '/home/app', newPasswd: undefined, newGroup: undefined };
const cdi: CdiEdits = { env: [], devices: [], mounts: [], hooks: [], additionalGids: [], intelRdt: undefined, netDevices: {} };
const resolved: ResolvedContainer = { user, mounts: [], devices: [], seccomp: undefined, volumes: [], cdi };

function bind(change: Partial<ResolvedMount>): ResolvedMount {
  return {
    containerPath: '/data',
    source: '/host/data',
    readonly: false,
    recursiveReadOnly: false,
    propagation: 'rprivate',
    flags: [],
    uidMappings: [],
    gidMappings: [],
    ...change,
  };
}

function build(security: Partial<LinuxContainerSecurityContext> = {}, change: Partial<ContainerSpecInput> = {}, found: Partial<ResolvedContainer> = {}) {
  return buildContainerSpec(specInput(containerConfig({}, security), change), { ...resolved, ...found });
}

function sandboxWith(change: Partial<ContainerSpecInput['sandbox']>): Partial<ContainerSpecInput> {
  return { sandbox: { ...specInput(containerConfig()).sandbox, ...change } };
}

describe('containerArgs()', () => {
  const busybox = { entrypoint: ['/entry'], cmd: ['a', 'b'] };
  test.each([
    [[], [], ['/entry', 'a', 'b']],
    [['sh'], [], ['sh']],
    [['sh'], ['-c'], ['sh', '-c']],
    [[], ['x'], ['/entry', 'x']],
  ])('makes a command line of command %j and args %j', (command, args, expected) => {
    expect(containerArgs({ command, args }, busybox)).toEqual(expected);
  });

  test('takes args alone for the command of an image without entrypoint, and fails where nothing is left', () => {
    expect(containerArgs({ command: [], args: ['x'] }, { entrypoint: [], cmd: ['a'] })).toEqual(['x']);
    expect(() => containerArgs({ command: [], args: [] }, { entrypoint: [], cmd: [] })).toThrow('config.command: is empty');
  });
});

test.each([
  ['', '', '/'],
  ['', '/srv', '/srv'],
  ['', 'srv/x', '/srv/x'],
  ['/a/../b', '/srv', '/b'],
])('workingDirectory("%s", image "%s") is %s', (working_dir, workingDir, expected) => {
  expect(workingDirectory({ working_dir }, { workingDir })).toBe(expected);
});

describe('buildContainerSpec()', () => {
  test('describes the process', () => {
    const { spec } = build({ no_new_privs: true }, { image: image({ env: ['A=1'], workingDir: '/srv' }) });
    expect(spec.process).toEqual({
      terminal: false,
      user: { uid: 1000, gid: 1001, additionalGids: [1001, 29] },
      args: ['sh'],
      env: [expect.stringMatching(/^PATH=/), 'HOSTNAME=web', 'HOME=/home/app', 'A=1'],
      cwd: '/srv',
      capabilities: expect.objectContaining({ bounding: ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_BIND_SERVICE'], inheritable: [] }),
      noNewPrivileges: true,
      oomScoreAdj: 0,
    });
    expect(spec.root).toEqual({ path: '/rootfs', readonly: false });
    expect(spec.hostname).toBe('web');
  });

  test.each([
    ['CONTAINER', NamespaceMode.CONTAINER, undefined, [{ type: 'pid' }]],
    ['POD', NamespaceMode.POD, '/proc/7/ns/pid', [{ type: 'pid', path: '/proc/7/ns/pid' }]],
    ['TARGET', NamespaceMode.TARGET, '/proc/8/ns/pid', [{ type: 'pid', path: '/proc/8/ns/pid' }]],
    ['NODE', NamespaceMode.NODE, undefined, []],
  ])('joins the namespaces of its pod and, with pid %s, the right PID namespace', (_name, mode, pid, expected) => {
    const config = sandboxConfig({}, { namespace_options: namespaceOptions({ pid: mode === NamespaceMode.TARGET ? NamespaceMode.CONTAINER : mode }) });
    const sandbox = sandboxWith({ config, namespaces: { network: '/ns/net', ipc: '/ns/ipc', uts: '/ns/uts', pid } });
    const { spec } = build({ namespace_options: namespaceOptions({ pid: mode }) }, sandbox);
    expect(spec.linux.namespaces).toEqual([
      { type: 'mount' },
      ...expected,
      { type: 'network', path: '/ns/net' },
      { type: 'ipc', path: '/ns/ipc' },
      { type: 'uts', path: '/ns/uts' },
      { type: 'cgroup' },
    ]);
  });

  test('fails when there is no PID namespace to join', () => {
    expect(() => build({ namespace_options: namespaceOptions({ pid: NamespaceMode.POD }) })).toThrow('there is no PID namespace to join');
  });

  test("has nothing of its own on the node's namespaces", () => {
    const { spec } = build({}, sandboxWith({ namespaces: {}, hostname: 'node1' }));
    expect(spec.hostname).toBeUndefined();
    expect(spec.process.env).toContain('HOSTNAME=node1');
    expect(spec.linux.namespaces.map(({ type }) => type)).toEqual(['mount', 'pid', 'cgroup']);
    expect(spec.mounts).toContainEqual(expect.objectContaining({ destination: '/etc/hosts', source: '/etc/hosts' }));
  });

  test('has no cgroup namespace on cgroup v1', () => {
    expect(build({}, { host: { ...fullHost, cgroupV2: false } }).spec.linux.namespaces).not.toContainEqual({ type: 'cgroup' });
  });

  test('mounts the defaults, parents first', () => {
    const destinations = build().spec.mounts.map(({ destination }) => destination);
    expect(destinations).toEqual(['/proc', '/dev', '/sys', '/dev/pts', '/dev/mqueue', '/dev/shm', '/etc/resolv.conf', '/etc/hostname', '/sys/fs/cgroup']);
  });

  test('lets a requested mount take the place of a default, and all below /dev', () => {
    const mounts = [bind({ containerPath: '/dev' }), bind({ containerPath: '/etc/hostname', source: '/h' }), bind({ containerPath: '/dev/shm', source: '/s' })];
    const { spec } = build({}, {}, { mounts });
    const below = spec.mounts.filter(({ destination }) => /^\/(dev|etc\/hostname)/.test(destination));
    expect(below.map(({ destination, source }) => `${destination} ${source}`)).toEqual(['/dev /host/data', '/etc/hostname /h', '/dev/shm /s']);
  });

  test('keeps the order of the request among equals and puts parents before children', () => {
    const mounts = ['/a/b/c', '/z', '/a/b', '/b', '/a'].map((containerPath) => bind({ containerPath }));
    const order = build({}, {}, { mounts }).spec.mounts.map(({ destination }) => destination);
    expect(order.filter((path) => /^\/[abz](\/|$)/.test(path))).toEqual(['/z', '/b', '/a', '/a/b', '/a/b/c']);
  });

  test.each<[Partial<ResolvedMount>, string[], string | undefined]>([
    [{}, ['rbind', 'rprivate', 'rw'], undefined],
    [{ readonly: true, flags: ['nodev', 'noexec'] }, ['rbind', 'rprivate', 'ro', 'nodev', 'noexec'], undefined],
    [{ readonly: true, recursiveReadOnly: true }, ['rbind', 'rprivate', 'rro'], undefined],
    [{ propagation: 'rslave' }, ['rbind', 'rslave', 'rw'], 'rslave'],
    [{ propagation: 'rshared' }, ['rbind', 'rshared', 'rw'], 'rshared'],
  ])('gives the mount %j its options and the root its propagation', (change, options, propagation) => {
    const { spec } = build({}, {}, { mounts: [bind(change)] });
    expect(spec.mounts.find(({ destination }) => destination === '/data')).toEqual({ destination: '/data', type: 'bind', source: '/host/data', options });
    expect(spec.linux.rootfsPropagation).toBe(propagation);
  });

  test('keeps image volumes writable under a read-only root', () => {
    const volumes = [{ containerPath: '/vol', hostPath: '/rootfs/real' }];
    expect(build({}, {}, { volumes }).spec.mounts.map(({ destination }) => destination)).not.toContain('/vol');
    const { spec } = build({ readonly_rootfs: true }, {}, { volumes });
    expect(spec.root.readonly).toBe(true);
    expect(spec.mounts).toContainEqual({ destination: '/vol', type: 'bind', source: '/rootfs/real', options: ['rbind', 'rprivate', 'rw'] });
    expect(spec.mounts.find(({ destination }) => destination === '/etc/resolv.conf')?.options).toContain('ro');
  });

  test('takes masked and read-only paths as they come, and none when privileged', () => {
    const paths = { masked_paths: ['/proc/kcore'], readonly_paths: ['/proc/sys'] };
    expect(build(paths).spec.linux).toMatchObject({ maskedPaths: ['/proc/kcore'], readonlyPaths: ['/proc/sys'] });
    expect(build().spec.linux).toMatchObject({ maskedPaths: [], readonlyPaths: [] });
    expect(build({ ...paths, privileged: true }).spec.linux).toMatchObject({ maskedPaths: [], readonlyPaths: [] });
  });

  test('opens everything to a privileged container', () => {
    const { spec } = build({ privileged: true, apparmor_profile: 'localhost/p' }, { host: { ...fullHost, apparmor: true } });
    expect(spec.process.capabilities.effective).toEqual(fullHost.capabilities);
    expect(spec.process.apparmorProfile).toBe('unconfined');
    expect(spec.linux.resources.devices).toEqual([{ allow: true, access: 'rwm' }]);
    for (const destination of ['/sys', '/sys/fs/cgroup']) expect(spec.mounts.find((mount) => mount.destination === destination)?.options).toContain('rw');
    expect(spec.linux.namespaces).not.toContainEqual({ type: 'cgroup' });
    const without = build({ privileged: true }, { privilegedWithoutHostDevices: true });
    expect(without.spec.linux.resources.devices).toEqual([{ allow: false, access: 'rwm' }]);
  });

  test('makes devices and allows each', () => {
    const device = { path: '/dev/fuse', type: 'c' as const, major: 10, minor: 229, fileMode: 0o666, uid: 0, gid: 0 };
    const { spec } = build({}, {}, { devices: [{ device, access: 'rw', hostPath: '/dev/fuse' }] });
    expect(spec.linux.devices).toEqual([device]);
    expect(spec.linux.resources.devices).toEqual([
      { allow: false, access: 'rwm' },
      { allow: true, type: 'c', major: 10, minor: 229, access: 'rw' },
    ]);
  });

  test('in a user namespace joins it, maps its ids, and binds devices and what belongs to the node', () => {
    const mapping = { host_id: 65_536, container_id: 0, length: 1_000 };
    const options = namespaceOptions({ network: NamespaceMode.NODE, userns_options: { mode: NamespaceMode.POD, uids: [mapping], gids: [mapping] } });
    const sandbox = { ...specInput(containerConfig()).sandbox, config: sandboxConfig({}, { namespace_options: options }), namespaces: { user: '/ns/user' } };
    const device = { path: '/dev/mine', type: 'c' as const, major: 10, minor: 229, fileMode: 0o666, uid: 0, gid: 0 };
    const { spec } = build(
      { namespace_options: options },
      { sandbox },
      { devices: [{ device, access: 'rw', hostPath: '/dev/fuse' }], mounts: [bind({ uidMappings: [mapping], gidMappings: [mapping] })] },
    );
    const ids = [{ hostID: 65_536, containerID: 0, size: 1_000 }];
    expect(spec.linux).toMatchObject({ devices: [] });
    expect(spec.linux.namespaces).toContainEqual({ type: 'user', path: '/ns/user' });
    expect(spec.linux.resources.devices).toContainEqual({ allow: true, type: 'c', major: 10, minor: 229, access: 'rw' });
    const at = (destination: string) => spec.mounts.find((mount) => mount.destination === destination);
    expect(at('/dev/mine')).toMatchObject({ type: 'bind', source: '/dev/fuse' });
    expect(at('/sys')).toMatchObject({ type: 'bind', source: '/sys' });
    expect(at('/dev/mqueue')).toMatchObject({ type: 'bind' });
    expect(at('/proc')).toMatchObject({ type: 'proc' });
    expect(at('/data')).toMatchObject({ uidMappings: ids, gidMappings: ids, options: ['rbind', 'rprivate', 'rw', 'idmap'] });
  });

  test('labels the process and what is mounted, or the mounts alone', () => {
    const { spec } = build({}, { labels: { process: 'u:r:t:s0', mount: 'u:object_r:f:s0' } });
    expect([spec.process.selinuxLabel, spec.linux.mountLabel]).toEqual(['u:r:t:s0', 'u:object_r:f:s0']);
    expect(build({}, { labels: { mount: 'm' } }).spec.process).not.toHaveProperty('selinuxLabel');
    expect(build().spec.linux).not.toHaveProperty('mountLabel');
  });

  test('limits the number of processes as configured', () => {
    const { defaults } = specInput(containerConfig());
    expect(build({}, { defaults: { ...defaults, pidsLimit: 5 } }).spec.linux.resources.pids).toEqual({ limit: 5 });
    expect(build().spec.linux.resources.pids).toBeUndefined();
  });

  test('reports an OOM score and capabilities that it could not give', () => {
    const config = containerConfig({
      linux: { resources: resources({ oom_score_adj: '-997' }), security_context: null },
    });
    const host = { ...fullHost, canLowerOomScore: false, oomScoreAdj: -500 };
    const limited = buildContainerSpec(specInput(config, { host }), resolved);
    expect(limited.spec.process.oomScoreAdj).toBe(-500);
    expect(limited.clampedOomScoreAdj).toEqual({ asked: -997, given: -500 });
    const free = buildContainerSpec(specInput(config), resolved);
    expect(free.spec.process.oomScoreAdj).toBe(-997);
    expect(free.clampedOomScoreAdj).toBeUndefined();
    const capabilities = { add_capabilities: ['SYS_TIME'], drop_capabilities: [], add_ambient_capabilities: [] };
    expect(build({ capabilities }).droppedCapabilities).toEqual(['CAP_SYS_TIME']);
  });
});
