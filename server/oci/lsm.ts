import { CriError, invalidField } from '#base/errors.ts';
import { type SELinuxOption, type SecurityProfile, SecurityProfileProfileType } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';

interface AppArmorRequest {
  readonly apparmor: SecurityProfile | null;
  /** The deprecated string; a pod's security context has none. */
  readonly apparmor_profile?: string;
}

/**
 * The AppArmor profile of a process, `undefined` for none. The message wins over the deprecated string. There is no
 * profile of Berth's own yet, so RuntimeDefault confines no further than unset does.
 * @throws {CriError} `invalidArgument` naming the field, also when a loaded profile is asked for and the kernel has no AppArmor.
 */
export function appArmorProfile(field: string, request: AppArmorRequest | null, host: Pick<HostFacts, 'apparmor'>): string | undefined {
  const wanted = wantedProfile(field, request);
  if (host.apparmor || wanted === undefined || wanted === 'unconfined') return host.apparmor ? wanted : undefined;
  throw invalidField(`${field}.apparmor`, wanted, 'needs AppArmor, which this host does not have enabled');
}

/** @throws {CriError} `unimplemented` on a host with SELinux. Elsewhere labels mean nothing and are passed over. */
export function validateSelinux(field: string, options: SELinuxOption | null, host: Pick<HostFacts, 'selinux'>): void {
  if (options === null || !host.selinux || Object.values(options).every((part) => part === '')) return;
  throw new CriError('unimplemented', `${field}.selinux_options: SELinux labels are not supported by this version`);
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
