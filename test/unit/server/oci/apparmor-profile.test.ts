import { describe, expect, test } from 'vitest';
import { SecurityProfileProfileType as Type } from '../../../../proto/cri.ts';
import { appArmorProfile } from '../../../../server/oci/apparmor-profile.ts';

const isProfileLoaded = (name: string): boolean => name !== 'missing';
const off = { apparmor: false, isProfileLoaded };
const on = { apparmor: true, apparmorDefault: 'berth-default', isProfileLoaded };

function of(profile_type: number, localhost_ref = '', apparmor_profile = '') {
  return { apparmor: { profile_type: profile_type as Type, localhost_ref }, apparmor_profile };
}

describe('appArmorProfile()', () => {
  test.each([
    [null, 'berth-default'],
    [{ apparmor: null }, 'berth-default'],
    [of(Type.RuntimeDefault), 'berth-default'],
    [of(Type.Unconfined), 'unconfined'],
    [of(Type.Localhost, 'my-profile'), 'my-profile'],
    [of(Type.Localhost, 'localhost/my-profile'), 'my-profile'],
    [of(Type.Localhost, 'new', 'localhost/old'), 'new'],
    [{ apparmor: null, apparmor_profile: 'runtime/default' }, 'berth-default'],
    [{ apparmor: null, apparmor_profile: 'unconfined' }, 'unconfined'],
    [{ apparmor: null, apparmor_profile: 'localhost/old' }, 'old'],
  ])('reads %j as %s', (request, profile) => {
    expect(appArmorProfile('s', request, on)).toBe(profile);
  });

  test('means nothing without AppArmor, except a profile that is to be there', () => {
    expect(appArmorProfile('s', of(Type.RuntimeDefault), off)).toBeUndefined();
    expect(appArmorProfile('s', of(Type.Unconfined), off)).toBeUndefined();
    expect(() => appArmorProfile('s', of(Type.Localhost, 'p'), off)).toThrow('s.apparmor: "p" needs AppArmor');
  });

  test.each([
    [of(Type.Localhost, 'missing'), 's.apparmor: "missing" is not loaded on this node'],
    [of(5), 's.apparmor.profile_type: 5'],
    [of(Type.Localhost), 's.apparmor.localhost_ref: ""'],
    [of(Type.Localhost, 'a\nb'), 's.apparmor.localhost_ref'],
    [{ apparmor: null, apparmor_profile: 'mine' }, 's.apparmor_profile: "mine"'],
  ])('refuses %j', (request, message) => {
    expect(() => appArmorProfile('s', request, on)).toThrow(message);
  });
});
