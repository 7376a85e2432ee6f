import { describe, expect, test } from 'vitest';
import { CAPABILITIES, resolveCapabilities, validateCapabilities } from '../../../../server/oci/capabilities.ts';

const host = { capabilities: ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_ADMIN', 'CAP_SYS_ADMIN'] };
const defaults = ['CAP_CHOWN', 'CAP_KILL'];

function request(add: string[], drop: string[] = [], ambient: string[] = []) {
  return { add_capabilities: add, drop_capabilities: drop, add_ambient_capabilities: ambient };
}

describe('resolveCapabilities()', () => {
  test.each([
    ['nothing', null, ['CAP_CHOWN', 'CAP_KILL']],
    ['one more', request(['NET_ADMIN']), ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_ADMIN']],
    ['one more by its whole name', request(['CAP_NET_ADMIN']), ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_ADMIN']],
    ['one less', request([], ['KILL']), ['CAP_CHOWN']],
    ['all but one', request(['ALL'], ['SYS_ADMIN']), ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_ADMIN']],
    ['none but one', request(['NET_ADMIN'], ['ALL']), ['CAP_NET_ADMIN']],
    ['none', request([], ['ALL']), []],
    ['one that is dropped as well', request(['NET_ADMIN'], ['NET_ADMIN']), ['CAP_CHOWN', 'CAP_KILL']],
  ])('gives what is left when the request wants %s', (_what, wanted, given) => {
    const { sets, dropped } = resolveCapabilities(wanted, false, defaults, host);
    expect(sets.bounding).toEqual(given);
    expect(sets.effective).toEqual(given);
    expect(sets.permitted).toEqual(given);
    expect(sets.inheritable).toEqual([]);
    expect(sets.ambient).toEqual([]);
    expect(dropped).toEqual([]);
  });

  test('reports what was asked for and is not in the bounding set', () => {
    const { sets, dropped } = resolveCapabilities(request(['SYS_TIME', 'NET_ADMIN']), false, [...defaults, 'CAP_SETUID'], host);
    expect(dropped).toEqual(['CAP_SYS_TIME']); // CAP_SETUID is only a default
    expect(sets.bounding).toEqual(['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_ADMIN']);
  });

  test('puts an ambient capability into every set', () => {
    const { sets } = resolveCapabilities(request([], ['ALL'], ['NET_ADMIN']), false, defaults, host);
    for (const set of Object.values(sets)) expect(set).toEqual(['CAP_NET_ADMIN']);
  });

  test('gives the whole bounding set to a privileged container whatever is listed', () => {
    expect(resolveCapabilities(request([], ['ALL']), true, defaults, host).sets.effective).toEqual(host.capabilities);
  });
});

describe('validateCapabilities()', () => {
  test('takes every capability of the kernel, with and without prefix', () => {
    expect(() => validateCapabilities('f', request([...CAPABILITIES], [...CAPABILITIES.map((name) => name.slice(4)), 'ALL'], ['all']))).not.toThrow();
  });

  test('names what is none', () => {
    expect(() => validateCapabilities('f', request(['KILL'], [], ['FLY']))).toThrow('f.add_ambient_capabilities[0]: "FLY" is no capability');
  });
});
