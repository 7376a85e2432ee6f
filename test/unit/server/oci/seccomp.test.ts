import { mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { SecurityProfileProfileType as Type } from '../../../../proto/cri.ts';
import { loadSeccompProfile, type SeccompInput, seccompChoice } from '../../../../server/oci/seccomp.ts';
import { defaultSeccompProfile } from '../../../../server/oci/seccomp-default.ts';
import { parseSeccompProfile } from '../../../../server/oci/seccomp-file.ts';
import type { SeccompProfile } from '../../../../server/oci/spec.ts';

const ARCHITECTURE = 'SCMP_ARCH_X86_64';

function actionOf(profile: SeccompProfile, name: string): string {
  const rules = (profile.syscalls ?? []).filter(({ names }) => names.includes(name));
  return rules.map(({ action, errnoRet, args }) => `${action.replace('SCMP_ACT_', '')}${errnoRet ?? ''}${args === undefined ? '' : '?'}`).join(' ');
}

describe('seccompChoice()', () => {
  const of = (profile_type: number, localhost_ref = '') => ({ seccomp: { profile_type: profile_type as Type, localhost_ref }, seccomp_profile_path: '' });
  const old = (seccomp_profile_path: string) => ({ seccomp: null, seccomp_profile_path });
  test.each([
    [null, { kind: 'unconfined' }],
    [old(''), { kind: 'unconfined' }],
    [old('unconfined'), { kind: 'unconfined' }],
    [old('runtime/default'), { kind: 'default' }],
    [old('docker/default'), { kind: 'default' }],
    [old('localhost//p.json'), { kind: 'file', path: '/p.json' }],
    [of(Type.RuntimeDefault), { kind: 'default' }],
    [of(Type.Unconfined), { kind: 'unconfined' }],
    [of(Type.Localhost, '/p.json'), { kind: 'file', path: '/p.json' }],
    [{ ...of(Type.Unconfined), seccomp_profile_path: 'runtime/default' }, { kind: 'unconfined' }],
  ])('reads %j', (request, choice) => {
    expect(seccompChoice('s', request)).toEqual(choice);
  });

  test.each([
    [of(9), 's.seccomp.profile_type: 9'],
    [of(Type.Localhost), 's.seccomp.localhost_ref: ""'],
    [of(Type.Localhost, 'p.json'), 's.seccomp.localhost_ref: "p.json"'],
    [old('strict'), 's.seccomp_profile_path: "strict"'],
    [old('localhost/p.json'), 's.seccomp_profile_path: "localhost/p.json"'],
  ])('refuses %j', (request, message) => {
    expect(() => seccompChoice('s', request)).toThrow(message);
  });
});

describe('defaultSeccompProfile()', () => {
  const plain = defaultSeccompProfile(ARCHITECTURE, ['CAP_CHOWN']);

  test('is a list of what is allowed, for one architecture', () => {
    expect(plain).toMatchObject({ defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 38, architectures: [ARCHITECTURE] });
  });

  test.each(['read', 'openat2', 'execve', 'futex', 'fchmodat2', 'statx', 'sendto', 'epoll_pwait2', 'rseq', 'seccomp'])('allows %s', (name) => {
    expect(actionOf(plain, name)).toBe('ALLOW');
  });

  test.each(['mount', 'unshare', 'setns', 'bpf', 'ptrace_unknown', 'clone3', 'init_module', 'keyctl', 'io_uring_setup', 'userfaultfd', 'chroot', 'reboot'])(
    'does not allow %s without its capability',
    (name) => {
      expect(actionOf(plain, name)).toBe(['clone3', 'ptrace_unknown'].includes(name) ? '' : 'ERRNO1');
    },
  );

  test.each([
    ['CAP_SYS_ADMIN', ['mount', 'unshare', 'setns', 'clone3', 'bpf', 'perf_event_open', 'syslog']],
    ['CAP_SYS_PTRACE', ['kcmp', 'pidfd_getfd']],
    ['CAP_SYS_MODULE', ['init_module', 'delete_module']],
    ['CAP_SYS_TIME', ['settimeofday', 'clock_settime']],
    ['CAP_SYS_BOOT', ['reboot']],
    ['CAP_SYS_NICE', ['mbind', 'set_mempolicy']],
    ['CAP_DAC_READ_SEARCH', ['open_by_handle_at']],
    ['CAP_SYS_CHROOT', ['chroot']],
    ['CAP_SYS_PACCT', ['acct']],
    ['CAP_SYS_RAWIO', ['iopl', 'ioperm']],
    ['CAP_SYS_TTY_CONFIG', ['vhangup']],
    ['CAP_SYSLOG', ['syslog']],
    ['CAP_BPF', ['bpf']],
    ['CAP_PERFMON', ['perf_event_open']],
  ])('allows with %s what the kernel asks it for', (capability, names) => {
    const profile = defaultSeccompProfile(ARCHITECTURE, [capability]);
    for (const name of names) expect(actionOf(profile, name), name).toBe('ALLOW');
  });

  test('guards clone by its flags, which s390 has in second place', () => {
    const guard = (profile: SeccompProfile) => profile.syscalls?.find(({ names }) => names.includes('clone'))?.args;
    expect(guard(plain)).toEqual([{ index: 0, value: 0x7e020000, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }]);
    expect(guard(defaultSeccompProfile('SCMP_ARCH_S390X', []))?.[0]?.index).toBe(1);
    expect(guard(defaultSeccompProfile(ARCHITECTURE, ['CAP_SYS_ADMIN']))).toBeUndefined();
  });

  test.each([[[]], [['CAP_SYS_ADMIN']], [['CAP_SYS_ADMIN', 'CAP_BPF', 'CAP_SYSLOG']]])(
    'has one rule without conditions for each name, with %j',
    (capabilities) => {
      const names = (defaultSeccompProfile(ARCHITECTURE, capabilities).syscalls ?? []).filter(({ args }) => args === undefined).flatMap((rule) => rule.names);
      expect(names.length).toBe(new Set(names).size);
    },
  );
});

describe('parseSeccompProfile()', () => {
  const target = { architecture: ARCHITECTURE, capabilities: ['CAP_CHOWN'], kernel: '6.1.0-18-amd64' };
  const parse = (profile: object) => parseSeccompProfile('p.json', JSON.stringify(profile), target);
  const rule = (change: object) => ({ names: ['read'], action: 'SCMP_ACT_ALLOW', ...change });

  test("passes on the OCI's shape", () => {
    const profile = {
      defaultAction: 'SCMP_ACT_ERRNO',
      defaultErrnoRet: 1,
      architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'],
      flags: ['SECCOMP_FILTER_FLAG_LOG'],
      syscalls: [rule({ errnoRet: 2, args: [{ index: 1, value: 3, valueTwo: 4, op: 'SCMP_CMP_MASKED_EQ' }] })],
    };
    expect(parse(profile)).toEqual(profile);
  });

  test("decides the conditions of Docker's shape", () => {
    const decide = (change: object) => parse({ defaultAction: 'SCMP_ACT_ERRNO', syscalls: [rule(change)] }).syscalls?.length;
    expect(decide({ includes: { caps: ['CAP_CHOWN'] } })).toBe(1);
    expect(decide({ includes: { caps: ['CAP_SYS_ADMIN'] } })).toBe(0);
    expect(decide({ excludes: { caps: ['CAP_CHOWN'] } })).toBe(0);
    expect(decide({ includes: { arches: ['amd64', 'x32'] } })).toBe(1);
    expect(decide({ includes: { arches: ['arm64'] } })).toBe(0);
    expect(decide({ excludes: { arches: ['s390x'] } })).toBe(1);
    expect(decide({ includes: { minKernel: '4.8' } })).toBe(1);
    expect(decide({ includes: { minKernel: '6.2' } })).toBe(0);
    expect(decide({ includes: { minKernel: '10.0' } })).toBe(0);
    expect(decide({ includes: {}, excludes: {}, args: null, comment: 'x' })).toBe(1);
    expect(parse({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ name: 'chmod', action: 'SCMP_ACT_ERRNO' }] }).syscalls?.[0]?.names).toEqual(['chmod']);
    const archMap = [
      { architecture: 'SCMP_ARCH_AARCH64', subArchitectures: ['SCMP_ARCH_ARM'] },
      { architecture: ARCHITECTURE, subArchitectures: ['SCMP_ARCH_X86'] },
    ];
    expect(parse({ defaultAction: 'SCMP_ACT_ALLOW', archMap }).architectures).toEqual([ARCHITECTURE, 'SCMP_ARCH_X86']);
  });

  test.each([
    ['[]', 'profile: no object'],
    ['{', 'seccomp profile p.json: '],
    ['{}', 'defaultAction: undefined is no action'],
    [JSON.stringify({ defaultAction: 'ALLOW' }), 'defaultAction: "ALLOW" is no action'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: {} }), 'syscalls: no list'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: [], action: 'SCMP_ACT_ALLOW' }] }), 'syscalls[0].names: empty'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: [1], action: 'SCMP_ACT_ALLOW' }] }), 'syscalls[0].names: no list of texts'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule({ action: 'SCMP_ACT_NOTIFY' })] }), 'syscalls[0].action: notifying'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule({ args: [{ index: 6, value: 1, op: 'SCMP_CMP_EQ' }] })] }), 'args[0].index'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule({ args: [{ index: 0, value: 2 ** 60, op: 'SCMP_CMP_EQ' }] })] }), 'args[0].value'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule({ args: [{ index: 0, value: 1, op: 'EQ' }] })] }), 'args[0].op'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule({ includes: { minKernel: 'new' } })] }), 'includes.minKernel'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', listenerPath: '/x' }), 'listenerPath'],
    [JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', architectures: ['a'], archMap: [{ architecture: 'b' }] }), 'archMap'],
  ])('refuses %s', (text, message) => {
    expect(() => parseSeccompProfile('p.json', text, target)).toThrow(message);
  });
});

describe('loadSeccompProfile()', () => {
  const input: SeccompInput = {
    choice: { kind: 'default' },
    capabilities: [],
    host: { seccomp: true, seccompArchitecture: ARCHITECTURE },
    defaultProfile: '',
  };

  test('gives the built-in profile or the configured one for RuntimeDefault, and none for Unconfined', async () => {
    await using dir = await mkdtempDisposable(join(tmpdir(), 'seccomp-'));
    const path = join(dir.path, 'p.json');
    await writeFile(path, '{"defaultAction":"SCMP_ACT_LOG"}');
    expect(await loadSeccompProfile(input)).toEqual(defaultSeccompProfile(ARCHITECTURE, []));
    expect(await loadSeccompProfile({ ...input, defaultProfile: path })).toEqual({ defaultAction: 'SCMP_ACT_LOG', syscalls: [] });
    expect(await loadSeccompProfile({ ...input, choice: { kind: 'file', path } })).toEqual({ defaultAction: 'SCMP_ACT_LOG', syscalls: [] });
    expect(await loadSeccompProfile({ ...input, choice: { kind: 'unconfined' } })).toBeUndefined();
  });

  test('fails when the file is missing or none, and where the kernel has no seccomp', async () => {
    await expect(loadSeccompProfile({ ...input, choice: { kind: 'file', path: '/not/there.json' } })).rejects.toThrow('seccomp profile /not/there.json');
    await expect(loadSeccompProfile({ ...input, choice: { kind: 'file', path: '/dev/zero' } })).rejects.toThrow('no file of at most');
    const without = { ...input, host: { ...input.host, seccomp: false } };
    await expect(loadSeccompProfile(without)).rejects.toThrow('the kernel has no seccomp');
    expect(await loadSeccompProfile({ ...without, choice: { kind: 'unconfined' } })).toBeUndefined();
  });
});
