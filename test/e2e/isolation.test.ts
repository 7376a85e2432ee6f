import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { ContainerState, NamespaceMode, SecurityProfileProfileType } from '../../proto/cri.ts';
import { said } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { type ContainerOptions, makeContainer, makePod, type Pod, runPod, startContainer, startPod } from '../support/pod.ts';
import { processesOf } from '../support/processes.ts';
import { until } from '../support/wait.ts';

const apparmor = existsSync('/sys/module/apparmor/parameters/enabled') && readFileSync('/sys/module/apparmor/parameters/enabled', 'utf8').startsWith('Y');

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  beforeAll(async () => {
    daemon = await startDaemon({
      handler,
      registry: inject('registry'),
      config: {
        runtime: {
          default_sysctls: 'net.ipv4.ip_unprivileged_port_start=0, kernel.shm_rmid_forced=1',
          default_capabilities: 'CHOWN, KILL',
        },
      },
    });
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  const initOf = (id: string): number => processesOf(daemon, id).init;
  const namespaceOf = (pid: number | 'self', kind: string): string => readlinkSync(`/proc/${pid}/ns/${kind}`);
  const statusLine = (pid: number, key: string): string => new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
  /** Why a container of a pod is refused. */
  const refusal = (pod: Pod, podId: string, options: ContainerOptions) =>
    daemon.cri.CreateContainer({ pod_sandbox_id: podId, config: makeContainer(pod, { name: 'refused', ...options }), sandbox_config: pod.config }).then(
      () => ({ code: 0, message: 'was created' }),
      ({ code, message }: { code: number; message: string }) => ({ code, message }),
    );
  const podRefusal = (pod: Pod) =>
    daemon.cri.RunPodSandbox({ config: pod.config }).then(
      () => ({ code: 0, message: 'was made' }),
      ({ code, message }: { code: number; message: string }) => ({ code, message }),
    );

  test(
    "a container is in its pod's network and IPC namespace and alone in its PID namespace",
    proves(
      'NamespaceOption.network',
      'NamespaceOption.ipc',
      'NamespaceOption.pid',
      'LinuxPodSandboxConfig.security_context',
      'LinuxContainerConfig.security_context',
    ),
    async () => {
      const { pod, podId, containerId } = await startPod(daemon);
      const other = await startContainer(daemon, pod, podId, { name: 'other' });
      const [pause, one, two] = [podId, containerId, other.containerId].map(initOf) as [number, number, number];
      for (const kind of ['net', 'ipc', 'uts']) {
        expect(namespaceOf(one, kind)).toBe(namespaceOf(pause, kind));
        expect(namespaceOf(two, kind)).toBe(namespaceOf(pause, kind));
        expect(namespaceOf(one, kind)).not.toBe(namespaceOf('self', kind));
      }
      expect(new Set([pause, one, two].map((pid) => namespaceOf(pid, 'pid'))).size).toBe(3);
    },
  );

  test(
    'a pod may have the node’s namespaces, and a container no more of them than its pod',
    proves('LinuxSandboxSecurityContext.namespace_options', 'LinuxContainerSecurityContext.namespace_options'),
    async () => {
      const node = { network: NamespaceMode.NODE, ipc: NamespaceMode.NODE, pid: NamespaceMode.NODE };
      const { containerId } = await startPod(daemon, { hostNetwork: true, security: { namespace_options: node } });
      for (const kind of ['net', 'ipc', 'uts', 'pid']) expect(namespaceOf(initOf(containerId), kind)).toBe(namespaceOf('self', kind));
      const { pod, podId } = await startPod(daemon);
      for (const kind of ['network', 'ipc', 'pid'] as const) {
        const options = { ...pod.config.linux?.security_context?.namespace_options, [kind]: NamespaceMode.NODE };
        expect(await refusal(pod, podId, { security: { namespace_options: options } })).toMatchObject({
          code: status.INVALID_ARGUMENT,
          message: expect.stringContaining(`config.linux.security_context.namespace_options.${kind}: "NODE" is more than the pod has`),
        });
      }
      for (const kind of ['network', 'ipc', 'pid'] as const) {
        const bad = makePod(daemon, {
          security: { namespace_options: { ...pod.config.linux?.security_context?.namespace_options, [kind]: NamespaceMode.TARGET } },
        });
        expect(await podRefusal(bad)).toMatchObject({ code: status.INVALID_ARGUMENT, message: expect.stringContaining(`namespace_options.${kind}: "TARGET"`) });
      }
    },
  );

  test('a pod that shares its processes has one PID namespace, whose orphans the pause reaps', async () => {
    const { pod, podId, containerId } = await startPod(
      daemon,
      { shareProcessNamespace: true },
      { command: ['sh', '-c', '(sleep 0.2 & echo $! >/orphan); sleep 10000'] },
    );
    const other = await startContainer(daemon, pod, podId, { name: 'other' });
    const ids = [podId, containerId, other.containerId];
    expect(new Set(ids.map((id) => namespaceOf(initOf(id), 'pid'))).size).toBe(1);
    expect(await said(daemon, other.containerId, 'cat /proc/1/comm')).toMatch(/pause|catatonit/);
    expect(await said(daemon, other.containerId, 'ps -o args')).toContain('sleep 10000');
    await until('the orphan to be reaped', async () => (await said(daemon, containerId, 'test -e /proc/$(cat /orphan) && echo there || echo gone')) === 'gone');
  });

  test('a debug container joins the processes of its target, and of no other pod’s', proves('NamespaceOption.target_id'), async () => {
    const { pod, podId, containerId } = await startPod(daemon, {}, { command: ['sleep', '4321'] });
    const into = (target_id: string) => ({
      security: { namespace_options: { ...pod.config.linux?.security_context?.namespace_options, pid: NamespaceMode.TARGET, target_id } },
    });
    const debug = await startContainer(daemon, pod, podId, { name: 'debug', ...into(containerId) });
    expect(namespaceOf(initOf(debug.containerId), 'pid')).toBe(namespaceOf(initOf(containerId), 'pid'));
    expect(await said(daemon, debug.containerId, 'cat /proc/1/cmdline | tr "\\0" " "')).toBe('sleep 4321');
    const stranger = await startPod(daemon);
    expect(await refusal(pod, podId, into(stranger.containerId))).toMatchObject({
      code: status.INVALID_ARGUMENT,
      message: expect.stringContaining('is no container of this pod'),
    });
    expect(await refusal(pod, podId, into(''))).toMatchObject({ code: status.INVALID_ARGUMENT, message: expect.stringContaining('target_id') });
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
    await until('the end of the debugger with its target', async () => {
      const { status: found } = await daemon.cri.ContainerStatus({ container_id: debug.containerId });
      return found?.state === ContainerState.CONTAINER_EXITED;
    });
    expect(await refusal(pod, podId, into(containerId))).toMatchObject({ code: status.FAILED_PRECONDITION });
  });

  test(
    'capabilities: defaults of the node, ALL and names, never inheritable ones, and no unknown ones',
    proves('Capability.add_capabilities', 'Capability.drop_capabilities', 'Capability.add_ambient_capabilities', 'LinuxContainerSecurityContext.capabilities'),
    async () => {
      const { pod, podId, containerId } = await startPod(daemon);
      const sets = (id: string) => ['CapBnd', 'CapEff', 'CapInh', 'CapAmb'].map((key) => BigInt(`0x${statusLine(initOf(id), key)}`));
      const [chown, kill, bind] = [1n << 0n, 1n << 5n, 1n << 10n];
      expect(sets(containerId)).toEqual([chown | kill, chown | kill, 0n, 0n]);
      const withCapabilities = async (name: string, capabilities: object, security: object = {}) =>
        sets((await startContainer(daemon, pod, podId, { name, security: { capabilities, ...security } })).containerId);
      expect(await withCapabilities('none', { drop_capabilities: ['ALL'] })).toEqual([0n, 0n, 0n, 0n]);
      expect(await withCapabilities('one', { drop_capabilities: ['ALL'], add_capabilities: ['CAP_NET_BIND_SERVICE'] })).toEqual([bind, bind, 0n, 0n]);
      const own = BigInt(`0x${statusLine(process.pid, 'CapBnd')}`);
      expect(await withCapabilities('all', { add_capabilities: ['ALL'], drop_capabilities: ['CHOWN'] })).toEqual([own & ~chown, own & ~chown, 0n, 0n]);
      const ambient = await withCapabilities(
        'ambient',
        { drop_capabilities: ['ALL'], add_ambient_capabilities: ['NET_BIND_SERVICE'] },
        { run_as_user: { value: '1000' } },
      );
      expect(ambient).toEqual([bind, bind, bind, bind]);
      expect(await refusal(pod, podId, { security: { capabilities: { add_capabilities: ['SYS_ADMIN', 'TIME_TRAVEL'] } } })).toMatchObject({
        code: status.INVALID_ARGUMENT,
        message: expect.stringContaining('config.linux.security_context.capabilities.add_capabilities[1]: "TIME_TRAVEL" is no capability'),
      });
    },
  );

  test(
    'seccomp: the profile asked for, by message or by its old string, or an error that names the file',
    proves(
      'SecurityProfile.profile_type',
      'SecurityProfile.localhost_ref',
      'LinuxContainerSecurityContext.seccomp',
      'LinuxContainerSecurityContext.seccomp_profile_path',
    ),
    async () => {
      const { pod, podId, containerId } = await startPod(daemon);
      expect(statusLine(initOf(containerId), 'Seccomp')).toBe('2');
      const seccompOf = async (name: string, security: object) =>
        statusLine(initOf((await startContainer(daemon, pod, podId, { name, security })).containerId), 'Seccomp');
      expect(await seccompOf('unconfined', { seccomp: { profile_type: SecurityProfileProfileType.Unconfined } })).toBe('0');
      expect(await seccompOf('unset', { seccomp: null })).toBe('0');
      expect(await seccompOf('old', { seccomp: null, seccomp_profile_path: 'runtime/default' })).toBe('2');
      const file = join(daemon.directory, 'no-mkdir.json');
      writeFileSync(file, JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }] }));
      const localhost = (localhost_ref: string) => ({ seccomp: { profile_type: SecurityProfileProfileType.Localhost, localhost_ref } });
      const filtered = await startContainer(daemon, pod, podId, { name: 'filtered', security: localhost(file) });
      expect(await said(daemon, filtered.containerId, 'mkdir /x; touch /y && echo touched')).toMatch(/not permitted[\s\S]*touched|touched[\s\S]*not permitted/);
      for (const bad of ['no-mkdir.json', `${file}.missing`]) {
        expect(await refusal(pod, podId, { security: localhost(bad) })).toMatchObject({ code: status.INVALID_ARGUMENT, message: expect.stringContaining(bad) });
      }
      writeFileSync(`${file}.bad`, '{"defaultAction": "SCMP_ACT_MAYBE"}');
      expect(await refusal(pod, podId, { security: localhost(`${file}.bad`) })).toMatchObject({
        code: status.INVALID_ARGUMENT,
        message: expect.stringContaining('defaultAction: "SCMP_ACT_MAYBE" is no action'),
      });
    },
  );

  test(
    'a pod with a seccomp profile that is not there is refused, and the pause has nothing to guard',
    proves('LinuxSandboxSecurityContext.seccomp', 'LinuxSandboxSecurityContext.seccomp_profile_path', 'LinuxSandboxSecurityContext.readonly_rootfs'),
    async () => {
      const missing = join(daemon.directory, 'missing.json');
      const localhost = { profile_type: SecurityProfileProfileType.Localhost, localhost_ref: missing };
      for (const security of [{ seccomp: localhost }, { seccomp: null, seccomp_profile_path: `localhost/${missing}` }]) {
        expect(await podRefusal(makePod(daemon, { security }))).toMatchObject({ code: status.INVALID_ARGUMENT, message: expect.stringContaining(missing) });
      }
      const podId = await runPod(daemon, makePod(daemon));
      for (const set of ['CapBnd', 'CapPrm', 'CapAmb']) expect(BigInt(`0x${statusLine(initOf(podId), set)}`)).toBe(0n);
      expect(statusLine(initOf(podId), 'NoNewPrivs')).toBe('1');
      expect(() => writeFileSync(`/proc/${initOf(podId)}/root/file`, '')).toThrow('EROFS');
    },
  );

  test(
    'privileged means all rights and devices of the node, without filters, and only in a privileged pod',
    proves('LinuxContainerSecurityContext.privileged', 'LinuxSandboxSecurityContext.privileged', 'LinuxContainerSecurityContext.no_new_privs'),
    async () => {
      const { podId, pod, containerId } = await startPod(daemon, { privileged: true }, { security: { privileged: true } });
      const pid = initOf(containerId);
      expect(statusLine(pid, 'CapEff')).toBe(statusLine(process.pid, 'CapBnd'));
      expect(statusLine(pid, 'Seccomp')).toBe('0');
      expect(await said(daemon, containerId, 'test -c /dev/kmsg -o -c /dev/loop-control -o -c /dev/fuse && echo has devices')).toBe(
        ['/dev/kmsg', '/dev/loop-control', '/dev/fuse'].some((path) => existsSync(path)) ? 'has devices' : '',
      );
      const modest = await startContainer(daemon, pod, podId, { name: 'modest', security: { no_new_privs: true } });
      expect(statusLine(initOf(modest.containerId), 'NoNewPrivs')).toBe('1');
      expect(statusLine(initOf(modest.containerId), 'CapEff')).not.toBe(statusLine(pid, 'CapEff'));
      const plain = await startPod(daemon);
      expect(await refusal(plain.pod, plain.podId, { security: { privileged: true } })).toMatchObject({
        code: status.INVALID_ARGUMENT,
        message: expect.stringContaining('config.linux.security_context.privileged'),
      });
    },
  );

  test.skipIf(apparmor)(
    'a kernel without AppArmor and SELinux: the default means nothing, a profile is refused, labels are passed over',
    proves(
      'LinuxContainerSecurityContext.apparmor',
      'LinuxContainerSecurityContext.apparmor_profile',
      'LinuxSandboxSecurityContext.apparmor',
      'LinuxContainerSecurityContext.selinux_options',
      'LinuxSandboxSecurityContext.selinux_options',
      'SELinuxOption.user',
      'SELinuxOption.role',
      'SELinuxOption.type',
      'SELinuxOption.level',
      'Mount.selinux_relabel',
    ),
    async () => {
      const labels = { user: 'system_u', role: 'system_r', type: 'spc_t', level: 's0:c1,c2' };
      const byDefault = { profile_type: SecurityProfileProfileType.RuntimeDefault };
      const { pod, podId } = await startPod(
        daemon,
        { security: { selinux_options: labels, apparmor: byDefault } },
        { security: { selinux_options: labels, apparmor: byDefault } },
      );
      await startContainer(daemon, pod, podId, { name: 'again', security: { selinux_options: labels, apparmor_profile: 'unconfined' } });
      expect(daemon.log().split('Passed over SELinux labels')).toHaveLength(2);
      const profile = { profile_type: SecurityProfileProfileType.Localhost, localhost_ref: 'mine' };
      for (const security of [{ apparmor: profile }, { apparmor_profile: 'localhost/mine' }]) {
        expect(await refusal(pod, podId, { security })).toMatchObject({
          code: status.INVALID_ARGUMENT,
          message: expect.stringContaining('"mine" needs AppArmor'),
        });
      }
      expect(await podRefusal(makePod(daemon, { security: { apparmor: profile } }))).toMatchObject({
        message: expect.stringContaining('config.linux.security_context.apparmor'),
      });
    },
  );

  test.each([
    ['of the node', { 'vm.max_map_count': '1' }, {}],
    ['of the node, behind a plus sign (CVE-2022-0811)', { 'kernel.shm_rmid_forced': '1+kernel.core_pattern=|/evil #' }, {}],
    ['of a namespace, that the kernel does not have', { 'net.ipv4.no_such_thing': '1' }, {}],
    ['by a path that climbs', { 'net/../kernel/core_pattern': '|/evil' }, {}],
    ['with a line end in it', { 'net.ipv4.ip_forward': '1\n0' }, {}],
    ['of the network of the node', { 'net.ipv4.ip_forward': '1' }, { hostNetwork: true }],
  ])('a sysctl %s is refused by its name, and nothing is set', async (_what, sysctls, options) => {
    const before = readFileSync('/proc/sys/kernel/core_pattern', 'utf8');
    expect(await podRefusal(makePod(daemon, { sysctls, ...options }))).toEqual({
      code: status.INVALID_ARGUMENT,
      message: expect.stringContaining(Object.keys(sysctls)[0] ?? ''),
    });
    expect(readFileSync('/proc/sys/kernel/core_pattern', 'utf8')).toBe(before);
  });

  test.each([
    ['a slice under cgroupfs', '/kubepods.slice/kubepods-burstable.slice'],
    ['a relative path', 'kubepods/burstable'],
    ['a path that climbs', '/kubepods/../../system'],
  ])('as cgroup parent %s is refused', async (_what, cgroupParent) => {
    expect(await podRefusal(makePod(daemon, { cgroupParent }))).toMatchObject({
      code: status.INVALID_ARGUMENT,
      message: expect.stringContaining('linux.cgroup_parent'),
    });
  });

  test('no daemon’s secret reaches a container: no open file, no environment of its own', async () => {
    const podId = await runPod(daemon, makePod(daemon));
    for (const pid of [initOf(podId), initOf((await startPod(daemon)).containerId)]) {
      const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      expect(open.filter((path) => path.startsWith(daemon.root) || path.startsWith(daemon.runroot) || path.startsWith('/sys'))).toEqual([]);
      expect(readlinkSync(`/proc/${pid}/cwd`)).not.toContain('runc');
    }
  });
});
