import { open } from 'node:fs/promises';
import { CriError, describeError, invalidField } from '#base/errors.ts';
import { type SecurityProfile, SecurityProfileProfileType } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';
import { defaultSeccompProfile } from './seccomp-default.ts';
import { parseSeccompProfile } from './seccomp-file.ts';
import type { SeccompProfile } from './spec.ts';

/** Profiles of real life have some 20 KB. */
const MAX_PROFILE_BYTES = 1024 * 1024;

/** What a request asks for, in either spelling. */
export type SeccompChoice = { readonly kind: 'unconfined' } | { readonly kind: 'default' } | { readonly kind: 'file'; readonly path: string };

interface SeccompRequest {
  readonly seccomp: SecurityProfile | null;
  /** The deprecated string. */
  readonly seccomp_profile_path: string;
}

/**
 * The message wins over the deprecated string; neither means unconfined, which is what the CRI says: the kubelet sends
 * RuntimeDefault itself where it wants that.
 * @param field the path of the security context, such as `config.linux.security_context`.
 * @throws {CriError} `invalidArgument` naming the field.
 */
export function seccompChoice(field: string, request: SeccompRequest | null): SeccompChoice {
  if (request === null) return { kind: 'unconfined' };
  if (request.seccomp !== null) {
    const { profile_type, localhost_ref } = request.seccomp;
    if (profile_type === SecurityProfileProfileType.RuntimeDefault) return { kind: 'default' };
    if (profile_type === SecurityProfileProfileType.Unconfined) return { kind: 'unconfined' };
    if (profile_type !== SecurityProfileProfileType.Localhost) throw invalidField(`${field}.seccomp.profile_type`, profile_type, 'is no profile type');
    return localhost(`${field}.seccomp.localhost_ref`, localhost_ref, localhost_ref);
  }
  const text = request.seccomp_profile_path;
  if (text === '' || text === 'unconfined') return { kind: 'unconfined' };
  if (text === 'runtime/default' || text === 'docker/default') return { kind: 'default' };
  if (!text.startsWith('localhost/')) throw invalidField(`${field}.seccomp_profile_path`, text, 'is no seccomp profile');
  return localhost(`${field}.seccomp_profile_path`, text, text.slice('localhost/'.length));
}

export interface SeccompInput {
  readonly choice: SeccompChoice;
  /** The container's bounding set. */
  readonly capabilities: readonly string[];
  readonly host: Pick<HostFacts, 'seccomp' | 'seccompArchitecture'>;
  /** Path of the profile for RuntimeDefault; empty for the built-in one. */
  readonly defaultProfile: string;
}

/**
 * The filter of a container, `undefined` for none.
 * @throws {CriError} `invalidArgument` when a profile is missing or bad, `failedPrecondition` where the kernel has no seccomp.
 */
export async function loadSeccompProfile({ choice, capabilities, host, defaultProfile }: SeccompInput): Promise<SeccompProfile | undefined> {
  if (choice.kind === 'unconfined') return undefined;
  if (!host.seccomp) throw new CriError('failedPrecondition', 'the kernel has no seccomp, which the container asks for');
  const path = choice.kind === 'file' ? choice.path : defaultProfile;
  if (path === '') return defaultSeccompProfile(host.seccompArchitecture, capabilities);
  return parseSeccompProfile(path, await readProfile(path), { architecture: host.seccompArchitecture, capabilities });
}

function localhost(field: string, value: string, path: string): SeccompChoice {
  // The kubelet sends the path below its seccomp root complete; a bare name would be looked up in the daemon's own directory.
  if (!path.startsWith('/') || path.includes('\0')) throw invalidField(field, value, 'is no absolute path of a seccomp profile');
  return { kind: 'file', path };
}

async function readProfile(path: string): Promise<string> {
  try {
    await using file = await open(path, 'r');
    const stat = await file.stat();
    if (!stat.isFile() || stat.size > MAX_PROFILE_BYTES) throw new Error(`no file of at most ${MAX_PROFILE_BYTES} bytes`);
    return await file.readFile('utf8');
  } catch (err) {
    throw new CriError('invalidArgument', `seccomp profile ${path}: ${describeError(err)}`, { cause: err });
  }
}
