import { CriError, invalidField } from '#base/errors.ts';
import type { SELinuxOption } from '../../proto/cri.ts';
import type { HostFacts } from './host-facts.ts';

/** An SELinux context, `user:role:type:level`. The level is empty under a policy that has none. */
export interface SelinuxLabel {
  readonly user: string;
  readonly role: string;
  readonly type: string;
  /** A sensitivity with categories (`s0:c1,c2`), or a range of them. */
  readonly level: string;
}

/** What the policy that is loaded on the node has for containers. */
export interface SelinuxPolicy {
  /** Of a process of which nothing is asked; its level is without categories. */
  readonly process: SelinuxLabel;
  /** Of the files of such a process. */
  readonly file: SelinuxLabel;
  /** Of files that every such process may read and map, and none may change. */
  readonly readonlyFile: SelinuxLabel;
  /** Process type of who is not to be confined; absent where the policy has none. */
  readonly unconfinedType?: string;
  /** The label as the kernel writes it (without aliases); `undefined` for one that the policy does not know. */
  readonly canonical: (label: string) => string | undefined;
}

/** What one container runs with. */
export interface ContainerLabels {
  /** Absent for a process that keeps its runtime's own. */
  readonly process?: string;
  /** Of all that is mounted for it and that has no labels of its own. */
  readonly mount: string;
}

const PARTS = ['user', 'role', 'type', 'level'] as const;

/** `undefined` for a text of less than three parts, or with an empty one. A level has colons of its own. */
export function parseLabel(text: string): SelinuxLabel | undefined {
  const [user = '', role = '', type = '', ...level] = text.split(':');
  if ([user, role, type, ...level].includes('') || type === '') return undefined;
  return { user, role, type, level: level.join(':') };
}

export function formatLabel({ user, role, type, level }: SelinuxLabel): string {
  return [user, role, type, ...(level === '' ? [] : [level])].join(':');
}

/** True where any part of a label is asked for. */
export function asksForSelinux(options: SELinuxOption | null): boolean {
  return options !== null && PARTS.some((part) => options[part] !== '');
}

/** A container's options over its pod's, part by part. */
export function mergeSelinux(pod: SELinuxOption | null, container: SELinuxOption | null): SELinuxOption {
  const merged = (part: (typeof PARTS)[number]): string => container?.[part] || pod?.[part] || '';
  return { user: merged('user'), role: merged('role'), type: merged('type'), level: merged('level') };
}

export interface LabelNeeds {
  /** The pod's own level, for what asks for no other. */
  readonly level: string;
  /** The process shares so much with the node that the default type would only be in its way. */
  readonly unconfined: boolean;
}

/**
 * The labels of a container, or of a pause process. User and level that are asked for go into both labels, role and type
 * into the process's alone. Who is not confined gets the policy's type for that, unless a type is asked for; its files
 * keep the pod's level, so that the other containers of the pod have no less of them.
 */
export function labelsFor(policy: SelinuxPolicy, options: SELinuxOption, { level, unconfined }: LabelNeeds): ContainerLabels {
  const own = (base: SelinuxLabel): SelinuxLabel => ({ ...base, user: options.user || base.user, level: options.level || level });
  const mount = formatLabel(own(policy.file));
  const free = unconfined && options.type === '';
  if (free && policy.unconfinedType === undefined && !asksForSelinux(options)) return { mount };
  const process: SelinuxLabel = {
    ...own(policy.process),
    role: options.role || policy.process.role,
    type: options.type || (free ? policy.unconfinedType : undefined) || policy.process.type,
    ...(free ? { level: options.level || policy.process.level } : {}),
  };
  return { process: policy.canonical(formatLabel(process)) ?? formatLabel(process), mount: policy.canonical(mount) ?? mount };
}

/**
 * Checks the labels that options make against the loaded policy. Without SELinux, or with it switched off in the
 * configuration, labels mean nothing and are passed over.
 * @throws {CriError} `invalidArgument` naming the part that the policy does not take; `failedPrecondition` where the node
 * has SELinux, but no policy for containers.
 */
export function validateSelinux(
  field: string,
  options: SELinuxOption | null,
  { selinuxPolicy, selinuxProblem }: Pick<HostFacts, 'selinuxPolicy' | 'selinuxProblem'>,
): void {
  if (options === null || !asksForSelinux(options)) return;
  if (selinuxPolicy === undefined) {
    if (selinuxProblem === undefined) return;
    throw new CriError('failedPrecondition', `${field}.selinux_options: no container of this node has SELinux labels: ${selinuxProblem}`);
  }
  const needs: LabelNeeds = { level: selinuxPolicy.process.level, unconfined: false };
  const knows = (asked: SELinuxOption): boolean => {
    const { process = '', mount } = labelsFor(selinuxPolicy, asked, needs);
    return selinuxPolicy.canonical(process) !== undefined && selinuxPolicy.canonical(mount) !== undefined;
  };
  for (const part of PARTS) {
    // The other parts, and the kernel's own parser, begin after a colon.
    if (/[\p{Cc}\s]/u.test(options[part]) || (part !== 'level' && options[part].includes(':')))
      throw invalidField(`${field}.selinux_options.${part}`, options[part], 'is no part of an SELinux label');
  }
  if (knows(options)) return;
  const none: SELinuxOption = { user: '', role: '', type: '', level: '' };
  const wrong = PARTS.find((part) => options[part] !== '' && !knows({ ...none, [part]: options[part] }));
  if (wrong !== undefined) throw invalidField(`${field}.selinux_options.${wrong}`, options[wrong], "is not in the node's SELinux policy");
  throw invalidField(`${field}.selinux_options`, labelsFor(selinuxPolicy, options, needs).process, "is no label of the node's SELinux policy");
}
