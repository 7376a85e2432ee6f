import { describe, expect, test } from 'vitest';
import { type MonitorSpec, monitorArgs, monitorEnv, refusal } from '../../../conmon/args.ts';

const spec: MonitorSpec = {
  id: 'abc',
  bundle: '/run/b/abc',
  runtimePath: '/usr/bin/crun',
  runtimeRoot: '/run/crun',
  conmonPath: '/usr/bin/conmon',
  logPath: '/var/log/pods/p/c/0.log',
  exitDir: '/run/exits',
  terminal: false,
  stdin: false,
  stdinOnce: false,
};
const extra = (change: Partial<MonitorSpec>): string[] => monitorArgs({ ...spec, ...change }).filter((word) => !monitorArgs(spec).includes(word));

describe('monitorArgs()', () => {
  test('names the container, its runtime and its files', () => {
    expect(monitorArgs(spec).join(' ')).toBe(
      '-b /run/b/abc -c abc -u abc -n abc -r /usr/bin/crun --runtime-arg --root=/run/crun -l k8s-file:/var/log/pods/p/c/0.log ' +
        '--exit-dir /run/exits -P /run/b/abc/conmon.pid -p /run/b/abc/pidfile --full-attach --no-sync-log --log-level error',
    );
  });

  test.each([
    [{ logPath: undefined }, ['none']],
    [{ terminal: true }, ['-t']],
    [{ stdin: true }, ['-i', '--leave-stdin-open']],
    [{ stdin: true, stdinOnce: true }, ['-i']],
    [{ terminal: true, stdin: true }, ['-t', '-i', '--leave-stdin-open']],
    [{ systemdCgroup: true }, ['--systemd-cgroup']],
  ])('adds for %j the words %j', (change, words) => {
    expect(extra(change)).toEqual(words);
  });
});

test('monitorEnv() numbers the pipes and keeps the console socket in the bundle', () => {
  expect(monitorEnv(spec)).toEqual({ _OCI_SYNCPIPE: '3', _OCI_STARTPIPE: '4', TMPDIR: '/run/b/abc' });
});

describe('refusal()', () => {
  const bundleOf = (length: number): string => `/${'x'.repeat(length - 1)}`;

  test('accepts what conmon can do, up to 107 bytes of socket path', () => {
    expect(refusal(spec)).toBeUndefined();
    expect(refusal({ ...spec, bundle: bundleOf(100) })).toBeUndefined();
    expect(refusal({ ...spec, bundle: bundleOf(88), terminal: true })).toBeUndefined();
  });

  test('refuses socket paths that are too long, in bytes', () => {
    expect(refusal({ ...spec, bundle: bundleOf(101) })).toContain('attach is 108 bytes long, more than 107');
    expect(refusal({ ...spec, bundle: bundleOf(89), terminal: true })).toContain('conmon-term.XXXXXX is 108 bytes long, more than 107');
    expect(refusal({ ...spec, bundle: `/${'ä'.repeat(50)}` })).toContain('108 bytes');
  });

  test('refuses a log path with a colon', () => {
    expect(refusal({ ...spec, logPath: '/logs/a:b.log' })).toBe('log path /logs/a:b.log holds a colon');
  });
});
