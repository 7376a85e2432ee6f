import { describe, expect, test } from 'vitest';
import { NamespaceMode, type NamespaceOption } from '../../../../proto/cri.ts';
import { joinedNamespaces, pidMode, validateContainerNamespaces, validateSandboxNamespaces } from '../../../../server/oci/namespaces.ts';
import { containerConfig, namespaceOptions, sandboxConfig } from './requests.ts';

const { POD, CONTAINER, NODE, TARGET } = NamespaceMode;
const mapping = { host_id: 65536, container_id: 0, length: 65536 };

test.each([
  [CONTAINER, CONTAINER, CONTAINER],
  [CONTAINER, undefined, CONTAINER],
  [POD, undefined, POD],
  [POD, CONTAINER, CONTAINER],
  [NODE, undefined, NODE],
  [NODE, POD, NODE],
  [NODE, CONTAINER, CONTAINER],
  [CONTAINER, TARGET, TARGET],
  [undefined, undefined, POD],
])('pidMode() of a pod with %s and a container with %s is %s', (pod, own, expected) => {
  const options = (pid: NamespaceMode | undefined) => ({ namespace_options: pid === undefined ? null : namespaceOptions({ pid }) });
  expect(pidMode(containerConfig({}, options(own)), sandboxConfig({}, options(pod)))).toBe(expected);
  expect(pidMode({ linux: null }, { linux: null })).toBe(POD);
});

test('joinedNamespaces() joins what is pinned', () => {
  expect(joinedNamespaces({ network: undefined, uts: '/u', ipc: '/i' })).toEqual([
    { type: 'ipc', path: '/i' },
    { type: 'uts', path: '/u' },
  ]);
});

describe('validateSandboxNamespaces()', () => {
  test.each([
    null,
    namespaceOptions(),
    namespaceOptions({ network: NODE, pid: NODE, ipc: NODE }),
    namespaceOptions({ userns_options: { mode: NODE, uids: [], gids: [] } }),
  ])('takes %j', (options) => {
    expect(() => validateSandboxNamespaces('n', options)).not.toThrow();
  });

  test.each<[Partial<NamespaceOption>, string]>([
    [{ network: CONTAINER }, 'n.network: "CONTAINER" is no mode'],
    [{ ipc: TARGET }, 'n.ipc: "TARGET"'],
    [{ pid: TARGET }, 'n.pid: "TARGET"'],
    [{ pid: 9 as NamespaceMode }, 'n.pid: 9'],
    [{ target_id: 'abc' }, 'n.target_id: "abc"'],
    [{ userns_options: { mode: POD, uids: [mapping, mapping], gids: [mapping] } }, 'n.userns_options.uids: 2 mappings, where exactly one is possible'],
    [{ userns_options: { mode: POD, uids: [mapping], gids: [] } }, 'n.userns_options.gids: 0 mappings'],
    [{ userns_options: { mode: POD, uids: [{ ...mapping, container_id: 1 }], gids: [mapping] } }, 'uids[0].container_id: 1 leaves id 0 without a mapping'],
    [{ userns_options: { mode: POD, uids: [mapping], gids: [{ ...mapping, length: 0 }] } }, 'gids[0].length: 0 maps nothing'],
    [{ userns_options: { mode: POD, uids: [{ ...mapping, length: 2 ** 32 - 1 }], gids: [mapping] } }, 'uids[0].host_id: 65536 with 4294967295 ids goes past'],
    [{ userns_options: { mode: CONTAINER, uids: [], gids: [] } }, 'n.userns_options.mode: "CONTAINER"'],
    [{ userns_options: { mode: NODE, uids: [mapping], gids: [] } }, 'userns_options.mode: "NODE" stands beside mappings'],
  ])('refuses %j', (change, message) => {
    expect(() => validateSandboxNamespaces('n', namespaceOptions(change))).toThrow(message);
  });
});

describe('validateContainerNamespaces()', () => {
  test.each<[Partial<NamespaceOption>, Partial<NamespaceOption> | null]>([
    [{}, {}],
    [{ pid: TARGET, target_id: 'abc' }, {}],
    [
      { network: NODE, ipc: NODE, pid: NODE },
      { network: NODE, ipc: NODE, pid: NODE },
    ],
    [{}, { network: NODE, ipc: NODE, pid: NODE }],
    [{ pid: POD }, null],
  ])('takes %j in a pod with %j', (own, pod) => {
    expect(() => validateContainerNamespaces('n', namespaceOptions(own), pod === null ? null : namespaceOptions(pod))).not.toThrow();
    expect(() => validateContainerNamespaces('n', null, null)).not.toThrow();
  });

  test.each<[Partial<NamespaceOption>, Partial<NamespaceOption> | null, string]>([
    [{ network: NODE }, {}, 'n.network: "NODE" is more than the pod has'],
    [{ ipc: NODE }, {}, 'n.ipc: "NODE" is more than the pod has'],
    [{ pid: NODE }, null, 'n.pid: "NODE" is more than the pod has'],
    [{ pid: TARGET }, {}, 'n.target_id: "" is empty'],
    [{ target_id: 'abc' }, {}, 'n.target_id: "abc" needs pid TARGET'],
    [{ userns_options: { mode: POD, uids: [mapping], gids: [mapping] } }, {}, `n.userns_options.mode: "POD" is not the pod's`],
    [
      { userns_options: { mode: POD, uids: [mapping], gids: [mapping] } },
      { userns_options: { mode: POD, uids: [{ ...mapping, host_id: 131_072 }], gids: [mapping] } },
      'n.userns_options: has other mappings than the pod',
    ],
  ])('refuses %j in a pod with %j', (own, pod, message) => {
    expect(() => validateContainerNamespaces('n', namespaceOptions(own), pod === null ? null : namespaceOptions(pod))).toThrow(message);
  });
});
