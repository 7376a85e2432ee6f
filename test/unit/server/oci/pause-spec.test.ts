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

  test('clamps the OOM score and takes another user', () => {
    const spec = buildPauseSpec({ ...input, host: { ...fullHost, canLowerOomScore: false, oomScoreAdj: -10 }, user: { uid: 7, gid: 8 } });
    expect(spec.process).toMatchObject({ oomScoreAdj: -10, user: { uid: 7, gid: 8, additionalGids: [8] } });
  });
});
