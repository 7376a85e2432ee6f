import { invalidField } from '#base/errors.ts';
import { type SecurityProfile, SecurityProfileProfileType } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';

interface AppArmorRequest {
  readonly apparmor: SecurityProfile | null;
  /** The deprecated string; a pod's security context has none. */
  readonly apparmor_profile?: string;
}

/** The part of the host's facts that AppArmor depends on. */
export type AppArmorFacts = Pick<HostFacts, 'apparmor' | 'apparmorDefault' | 'isProfileLoaded'>;

/**
 * The AppArmor profile of a process, `undefined` for none. The message wins over the deprecated string; unset means the
 * runtime's default, as RuntimeDefault does.
 * @throws {CriError} `invalidArgument` naming the field, also for a profile that is not loaded, and on a kernel without AppArmor.
 */
export function appArmorProfile(field: string, request: AppArmorRequest | null, host: AppArmorFacts): string | undefined {
  const wanted = wantedProfile(field, request);
  if (wanted === undefined) return host.apparmorDefault;
  if (wanted === 'unconfined') return host.apparmor ? wanted : undefined;
  if (!host.apparmor) throw invalidField(`${field}.apparmor`, wanted, 'needs AppArmor, which this host does not have enabled');
  if (!host.isProfileLoaded(wanted)) throw invalidField(`${field}.apparmor`, wanted, 'is not loaded on this node');
  return wanted;
}

function wantedProfile(field: string, request: AppArmorRequest | null): string | undefined {
  if (request?.apparmor) {
    const { profile_type, localhost_ref } = request.apparmor;
    if (profile_type === SecurityProfileProfileType.RuntimeDefault) return undefined;
    if (profile_type === SecurityProfileProfileType.Unconfined) return 'unconfined';
    if (profile_type !== SecurityProfileProfileType.Localhost) throw invalidField(`${field}.apparmor.profile_type`, profile_type, 'is no profile type');
    return localhost(`${field}.apparmor.localhost_ref`, localhost_ref);
  }
  const text = request?.apparmor_profile ?? '';
  if (text === '' || text === 'runtime/default') return undefined;
  if (text === 'unconfined') return text;
  if (!text.startsWith('localhost/')) throw invalidField(`${field}.apparmor_profile`, text, 'is no AppArmor profile');
  return localhost(`${field}.apparmor_profile`, text);
}

/** A profile's name, which the kubelet sends bare and older clients with a prefix. */
function localhost(field: string, value: string): string {
  const name = value.replace(/^localhost\//, '');
  if (!/^[!-~][ -~]*$/.test(name)) throw invalidField(field, value, 'is no name of an AppArmor profile');
  return name;
}
