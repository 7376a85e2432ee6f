import { describe, expect, test } from 'vitest';
import { NamespaceMode } from '../../../../proto/cri.ts';
import { SelinuxLevels } from '../../../../server/oci/selinux-levels.ts';
import { containerLabels, isConfined, podLabels, takePodLevel } from '../../../../server/oci/selinux-pod.ts';
import { containerConfig, namespaceOptions, sandboxConfig, selinuxPolicy } from './requests.ts';

const labelling = { policy: selinuxPolicy, level: 's0:c1,c2', hostNetworkUnconfined: true };
const options = (change: object) => ({ user: '', role: '', type: '', level: '', ...change });
const confined = 'system_u:system_r:container_t:s0:c1,c2';
const free = 'system_u:system_r:spc_t:s0';

describe('podLabels() and containerLabels()', () => {
  test.each([
    ['a plain pod', {}, confined],
    ['a privileged pod', { privileged: true }, free],
    ['a pod with the network of the node', { namespace_options: namespaceOptions({ network: NamespaceMode.NODE }) }, free],
    ['a pod with the IPC namespace of the node', { namespace_options: namespaceOptions({ ipc: NamespaceMode.NODE }) }, free],
    ['a pod with the processes of the node', { namespace_options: namespaceOptions({ pid: NamespaceMode.NODE }) }, free],
    ['a privileged pod that asks for a type', { privileged: true, selinux_options: options({ type: 'my_t' }) }, 'system_u:system_r:my_t:s0:c1,c2'],
  ])('give the pause of %s its label', (_what, security, process) => {
    const pod = sandboxConfig({}, security);
    expect(podLabels(labelling, pod)).toEqual({ process, mount: 'system_u:object_r:container_file_t:s0:c1,c2' });
  });

  test.each([
    ['a plain one', {}, {}, confined],
    ['a privileged one', { privileged: true }, { privileged: true }, free],
    ['a plain one in a privileged pod', { privileged: true }, {}, confined],
    ['one in a pod on the network of the node', { namespace_options: namespaceOptions({ network: NamespaceMode.NODE }) }, {}, free],
    [
      'one with the processes of the node',
      { namespace_options: namespaceOptions({ pid: NamespaceMode.NODE }) },
      { namespace_options: namespaceOptions({ pid: NamespaceMode.NODE }) },
      free,
    ],
    ["one with its pod's type", { selinux_options: options({ type: 'my_t' }) }, {}, 'system_u:system_r:my_t:s0:c1,c2'],
    ['one with a level of its own', {}, { selinux_options: options({ level: 's0:c8' }) }, 'system_u:system_r:container_t:s0:c8'],
  ])('give %s its label', (_what, podSecurity, security, process) => {
    const labels = containerLabels(labelling, sandboxConfig({}, podSecurity), containerConfig({}, security));
    expect(labels?.process).toBe(process);
  });

  test("keep a container on the node's network confined where that is configured", () => {
    const pod = sandboxConfig({}, { namespace_options: namespaceOptions({ network: NamespaceMode.NODE }) });
    expect(podLabels({ ...labelling, hostNetworkUnconfined: false }, pod)?.process).toBe(confined);
    expect(containerLabels({ ...labelling, hostNetworkUnconfined: false }, pod, containerConfig())?.process).toBe(confined);
  });

  test.each([
    ['a node without labels', { ...labelling, policy: undefined }],
    ['a pod that was made without', { ...labelling, level: undefined }],
  ])('give none on %s', (_what, without) => {
    expect(podLabels(without, sandboxConfig())).toBeUndefined();
    expect(containerLabels(without, sandboxConfig(), containerConfig())).toBeUndefined();
  });
});

test('isConfined() is false for the type that is not, and for a process without label', () => {
  const mount = 'u:r:t:s0';
  expect([{ process: confined, mount }, { process: free, mount }, { mount }].map((labels) => isConfined(labels, selinuxPolicy))).toEqual([true, false, false]);
});

test('takePodLevel() takes a free level, or holds the one that is asked for as the kernel writes it', () => {
  const levels = new SelinuxLevels(() => 0);
  const asking = sandboxConfig({}, { selinux_options: options({ level: 's0:c1,c0' }) });
  expect(takePodLevel(undefined, levels, 'none', asking)).toBeUndefined();
  expect(takePodLevel(selinuxPolicy, levels, 'asked', asking)).toBe('s0:c0,c1');
  expect(takePodLevel(selinuxPolicy, levels, 'plain', sandboxConfig())).toBe('s0:c0,c2');
  const flat = { ...selinuxPolicy, process: { ...selinuxPolicy.process, level: '' } };
  expect(takePodLevel(flat, levels, 'flat', sandboxConfig())).toBe('');
});
