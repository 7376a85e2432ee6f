import { describe, expect, test } from 'vitest';
import { NamespaceMode } from '../../../../proto/cri.ts';
import { buildPauseSpec, type PauseSpecInput } from '../../../../server/oci/pause-spec.ts';
import { fullHost, namespaceOptions, sandboxConfig } from './requests.ts';

const input: PauseSpecInput = {
  id: 's1',
  config: sandboxConfig(),
  namespaces: { network: '/ns/net', ipc: '/ns/ipc', uts: '/ns/uts' },
  hostname: 'web',
  args: ['/pause', '-P'],
  env: ['A=1'],
  rootfs: '/pause-root',
  cgroupsPath: '/kubepods/pod1/s1',
  host: fullHost,
};

describe('buildPauseSpec()', () => {
  test('gives the pause nothing that it could do harm with', () => {
    const spec = buildPauseSpec(input);
    expect(spec.process).toMatchObject({ user: { uid: 65_535, gid: 65_535 }, noNewPrivileges: true, oomScoreAdj: -998, args: ['/pause', '-P'], env: ['A=1'] });
    for (const set of Object.values(spec.process.capabilities)) expect(set).toEqual([]);
    expect(spec.root).toEqual({ path: '/pause-root', readonly: true });
    expect(spec.linux.resources.devices).toEqual([{ allow: false, access: 'rwm' }]);
    expect(spec.linux.seccomp).toBeUndefined();
  });

  test('has a PID namespace for the pod unless the pod is on that of the node', () => {
    expect(buildPauseSpec(input).linux.namespaces.map(({ type }) => type)).toEqual(['mount', 'pid', 'network', 'ipc', 'uts']);
    const config = sandboxConfig({}, { namespace_options: namespaceOptions({ pid: NamespaceMode.NODE, network: NamespaceMode.NODE }) });
    const onNode = buildPauseSpec({ ...input, config, namespaces: { ipc: '/ns/ipc' } });
    expect(onNode.linux.namespaces).toEqual([{ type: 'mount' }, { type: 'ipc', path: '/ns/ipc' }]);
    expect(onNode.hostname).toBeUndefined();
  });

  test('has SELinux labels where the pod has', () => {
    const { process, linux } = buildPauseSpec({ ...input, labels: { process: 'p', mount: 'm' } });
    expect([process.selinuxLabel, linux.mountLabel]).toEqual(['p', 'm']);
    expect(buildPauseSpec(input).process).not.toHaveProperty('selinuxLabel');
  });

  test('clamps the OOM score', () => {
    const spec = buildPauseSpec({ ...input, host: { ...fullHost, canLowerOomScore: false, oomScoreAdj: -10 } });
    expect(spec.process).toMatchObject({ oomScoreAdj: -10, user: { uid: 65_535, gid: 65_535 } });
  });

  test("is the pod's user with its groups", () => {
    const config = sandboxConfig({}, { run_as_user: { value: '7' }, run_as_group: { value: '8' }, supplemental_groups: ['9', '8'] });
    expect(buildPauseSpec({ ...input, config }).process.user).toEqual({ uid: 7, gid: 8, additionalGids: [8, 9] });
  });

  test('in a user namespace is its last user', () => {
    const mapping = { host_id: 65_536, container_id: 0, length: 1_000 };
    const options = namespaceOptions({ userns_options: { mode: NamespaceMode.POD, uids: [mapping], gids: [mapping] } });
    const spec = buildPauseSpec({ ...input, config: sandboxConfig({}, { namespace_options: options }), namespaces: { user: '/ns/user' } });
    expect(spec.process.user).toEqual({ uid: 999, gid: 999, additionalGids: [999] });
    expect(spec.linux.namespaces).toContainEqual({ type: 'user', path: '/ns/user' });
  });
});
