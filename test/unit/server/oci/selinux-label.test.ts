import { describe, expect, test } from 'vitest';
import type { SELinuxOption } from '../../../../proto/cri.ts';
import { asksForSelinux, formatLabel, labelsFor, mergeSelinux, parseLabel, validateSelinux } from '../../../../server/oci/selinux-label.ts';
import { selinuxPolicy } from './requests.ts';

const none: SELinuxOption = { user: '', role: '', type: '', level: '' };
const needs = { level: 's0:c1,c2', unconfined: false };

describe('parseLabel()', () => {
  test.each([
    ['system_u:system_r:container_t:s0:c1,c2', { user: 'system_u', role: 'system_r', type: 'container_t', level: 's0:c1,c2' }],
    ['u:r:t:s0-s0:c0.c1023', { user: 'u', role: 'r', type: 't', level: 's0-s0:c0.c1023' }],
    ['u:r:t', { user: 'u', role: 'r', type: 't', level: '' }],
  ])('takes %s apart, and formatLabel() puts it together', (text, label) => {
    expect(parseLabel(text)).toEqual(label);
    expect(formatLabel(label)).toBe(text);
  });

  test.each(['', 'u', 'u:r', 'u:r:', ':r:t:s0', 'u:r:t:', 'u::t:s0'])('finds no label in "%s"', (text) => {
    expect(parseLabel(text)).toBeUndefined();
  });
});

test("mergeSelinux() puts a container's parts over its pod's", () => {
  expect(mergeSelinux({ ...none, user: 'u', level: 's0:c7' }, { ...none, level: 's0:c8' })).toEqual({ ...none, user: 'u', level: 's0:c8' });
  expect(mergeSelinux(null, null)).toEqual(none);
  expect([null, none, { ...none, role: 'r' }].map(asksForSelinux)).toEqual([false, false, true]);
});

describe('labelsFor()', () => {
  test.each<[string, Partial<SELinuxOption>, typeof needs, string | undefined, string]>([
    ['the defaults with the level of the pod', {}, needs, 'system_u:system_r:container_t:s0:c1,c2', 'system_u:object_r:container_file_t:s0:c1,c2'],
    ['user and level for both', { user: 'staff_u', level: 's0:c9' }, needs, 'staff_u:system_r:container_t:s0:c9', 'staff_u:object_r:container_file_t:s0:c9'],
    ['role and type for the process', { role: 'my_r', type: 'my_t' }, needs, 'system_u:my_r:my_t:s0:c1,c2', 'system_u:object_r:container_file_t:s0:c1,c2'],
    [
      'the name that the policy knows it by',
      { type: 'svirt_lxc_net_t' },
      needs,
      'system_u:system_r:container_t:s0:c1,c2',
      'system_u:object_r:container_file_t:s0:c1,c2',
    ],
    [
      'an unconfined type, without categories, for the process alone',
      {},
      { ...needs, unconfined: true },
      'system_u:system_r:spc_t:s0',
      'system_u:object_r:container_file_t:s0:c1,c2',
    ],
    [
      'a type that is asked for, unconfined or not',
      { type: 'my_t' },
      { ...needs, unconfined: true },
      'system_u:system_r:my_t:s0:c1,c2',
      'system_u:object_r:container_file_t:s0:c1,c2',
    ],
    [
      'a level for the unconfined',
      { level: 's0:c9' },
      { ...needs, unconfined: true },
      'system_u:system_r:spc_t:s0:c9',
      'system_u:object_r:container_file_t:s0:c9',
    ],
  ])('gives %s', (_what, options, asked, process, mount) => {
    expect(labelsFor(selinuxPolicy, { ...none, ...options }, asked)).toEqual({ process, mount });
  });

  test('gives the unconfined none where the policy has no type for them, but what is asked for', () => {
    const { unconfinedType: _, ...policy } = selinuxPolicy;
    const unconfined = { ...needs, unconfined: true };
    expect(labelsFor(policy, none, unconfined)).toEqual({ mount: 'system_u:object_r:container_file_t:s0:c1,c2' });
    expect(labelsFor(policy, { ...none, user: 'staff_u' }, unconfined).process).toBe('staff_u:system_r:container_t:s0');
  });

  test('has three parts under a policy without levels', () => {
    const flat = (label: typeof selinuxPolicy.process) => ({ ...label, level: '' });
    const policy = { ...selinuxPolicy, process: flat(selinuxPolicy.process), file: flat(selinuxPolicy.file) };
    expect(labelsFor(policy, none, { level: '', unconfined: false })).toEqual({
      process: 'system_u:system_r:container_t',
      mount: 'system_u:object_r:container_file_t',
    });
  });
});

describe('validateSelinux()', () => {
  test.each<[Partial<SELinuxOption>, string]>([
    [{ level: 's0,c4,c5' }, `s.selinux_options.level: "s0,c4,c5" is not in the node's SELinux policy`],
    [{ user: 'system_u', type: 'nobody_knows_t' }, 's.selinux_options.type: "nobody_knows_t" is not in'],
    [{ user: 'nobody_u', level: 's0:c1' }, 's.selinux_options.user: "nobody_u" is not in'],
    [{ role: 'nobody_r' }, 's.selinux_options.role: "nobody_r" is not in'],
    [{ role: 'my_r' }, 's.selinux_options.role: "my_r" is not in'],
    [{ type: 'a:b' }, 's.selinux_options.type: "a:b" is no part of'],
    [{ level: 's0:c1 ' }, 's.selinux_options.level: "s0:c1 " is no part of'],
    [{ user: 'a\0' }, 's.selinux_options.user'],
  ])('refuses %j', (options, message) => {
    expect(() => validateSelinux('s', { ...none, ...options }, { selinuxPolicy })).toThrow(message);
  });

  test('takes what only the whole label makes right, and names it whole where only that is wrong', () => {
    expect(() => validateSelinux('s', { ...none, role: 'my_r', type: 'my_t' }, { selinuxPolicy })).not.toThrow();
    const canonical = (label: string): string | undefined =>
      label.startsWith('staff_u:') && label.includes(':my_t:') ? undefined : selinuxPolicy.canonical(label);
    expect(() => validateSelinux('s', { ...none, user: 'staff_u', type: 'my_t' }, { selinuxPolicy: { ...selinuxPolicy, canonical } })).toThrow(
      's.selinux_options: "staff_u:system_r:my_t:s0" is no label',
    );
  });

  test('passes labels over where they mean nothing, and refuses them where the policy has none for containers', () => {
    const options = { ...none, type: 'nobody_knows_t' };
    expect(() => validateSelinux('s', options, {})).not.toThrow();
    expect(() => validateSelinux('s', null, { selinuxProblem: 'no policy' })).not.toThrow();
    expect(() => validateSelinux('s', none, { selinuxProblem: 'no policy' })).not.toThrow();
    expect(() => validateSelinux('s', options, { selinuxProblem: 'no policy' })).toThrow(
      's.selinux_options: no container of this node has SELinux labels: no policy',
    );
  });
});
