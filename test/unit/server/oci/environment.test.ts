import { describe, expect, test } from 'vitest';
import { buildEnvironment, type EnvironmentInput, validateEnvironment } from '../../../../server/oci/environment.ts';

function build(change: Partial<EnvironmentInput>): readonly string[] {
  return buildEnvironment({ defaults: [], image: [], request: [], hostname: 'web', home: '/root', tty: false, ...change });
}

function variable(key: string, value: string | Buffer) {
  return { key, value: Buffer.from(value) };
}

describe('buildEnvironment()', () => {
  test('sets PATH, HOSTNAME and HOME when nobody does', () => {
    expect(build({})).toEqual(['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOSTNAME=web', 'HOME=/root']);
  });

  test('lets the image win over the defaults and the request over both', () => {
    const env = build({ defaults: ['A=1', 'B=1', 'C=1'], image: ['B=2', 'C=2', 'PATH=/bin'], request: [variable('C', '3'), variable('HOME', '/x')] });
    expect(env).toEqual(['PATH=/bin', 'HOSTNAME=web', 'HOME=/x', 'A=1', 'B=2', 'C=3']);
  });

  test('sets TERM for a terminal, and leaves HOSTNAME out when there is none', () => {
    expect(build({ tty: true, hostname: '' })).toEqual([expect.stringMatching(/^PATH=/), 'TERM=xterm', 'HOME=/root']);
  });

  test('keeps equals signs and line ends in values and drops names without a value', () => {
    expect(build({ image: ['ALONE', '=nothing'], request: [variable('KEY', 'a=b\nc')] }).slice(3)).toEqual(['KEY=a=b\nc']);
  });
});

describe('validateEnvironment()', () => {
  test.each([
    ['an empty name', variable('', 'x'), 'config.envs[0].key: ""'],
    ['an equals sign in a name', variable('A=B', 'x'), 'config.envs[0].key: "A=B"'],
    ['a NUL in a name', variable('A\0', 'x'), 'config.envs[0].key'],
    ['a NUL in a value', variable('A', 'secret\0'), 'the value of "A" has a NUL in it'],
    ['a value that is not UTF-8', variable('A', Buffer.from([0xff, 0xfe])), 'the value of "A" is not UTF-8'],
    ['a HOME of two lines', variable('HOME', '/\nroot::0:0'), 'config.envs[0].value'],
  ])('refuses %s', (_what, env, message) => {
    expect(() => validateEnvironment([env])).toThrow(message);
  });

  test('does not repeat the value', () => {
    expect(() => validateEnvironment([variable('A', 'secret\0')])).not.toThrow('secret');
  });

  test('takes any other text', () => {
    expect(() => validateEnvironment([variable('A', ''), variable('ü.x', 'a\nb='), variable('B', '\uFEFF')])).not.toThrow();
  });
});
