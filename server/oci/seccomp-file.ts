import { release } from 'node:os';
import { CriError, describeError, quote } from '#base/errors.ts';
import type { SeccompArgument, SeccompProfile, SeccompRule } from './spec.ts';

export interface SeccompTarget {
  /** Such as `SCMP_ARCH_X86_64`. */
  readonly architecture: string;
  readonly capabilities: readonly string[];
  /** Of the running kernel, for rules with `minKernel`; default that of this host. */
  readonly kernel?: string;
}

/** What a runtime would refuse in words of its own, or worse, take for something else. Source: runtime-spec config-linux.md, "Seccomp". */
const ACTIONS = new Set('KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY'.split(' ').map((name) => `SCMP_ACT_${name}`));
const COMPARISONS = new Set('NE LT LE EQ GE GT MASKED_EQ'.split(' ').map((name) => `SCMP_CMP_${name}`));

type Json = Readonly<Record<string, unknown>>;

/**
 * Reads a profile in the OCI's shape (`linux.seccomp`) or Docker's, which adds `archMap` and conditions to rules
 * (`includes`, `excludes`); the conditions are decided here, for one container.
 * Source: runtime-spec config-linux.md, "Seccomp"; Docker's profile of the same name.
 * @param name what errors call it.
 * @throws {CriError} `invalidArgument` naming the profile and what is wrong.
 */
export function parseSeccompProfile(name: string, text: string, target: SeccompTarget): SeccompProfile {
  try {
    const profile = record(JSON.parse(text), 'profile');
    const flags = strings(profile.flags, 'flags');
    const architectures = architecturesOf(profile, target);
    const defaultErrnoRet = optionalWhole(profile.defaultErrnoRet, 'defaultErrnoRet');
    if (profile.listenerPath !== undefined) throw new Error('listenerPath: notifying profiles are not supported');
    return {
      defaultAction: action(profile.defaultAction, 'defaultAction'),
      ...(defaultErrnoRet === undefined ? {} : { defaultErrnoRet }),
      ...(architectures.length === 0 ? {} : { architectures }),
      ...(flags.length === 0 ? {} : { flags }),
      syscalls: array(profile.syscalls, 'syscalls').flatMap((rule, index) => ruleOf(record(rule, `syscalls[${index}]`), `syscalls[${index}]`, target)),
    };
  } catch (err) {
    throw new CriError('invalidArgument', `seccomp profile ${name}: ${describeError(err)}`, { cause: err });
  }
}

function architecturesOf(profile: Json, { architecture }: SeccompTarget): readonly string[] {
  const listed = strings(profile.architectures, 'architectures');
  const maps = array(profile.archMap, 'archMap').map((entry, index) => record(entry, `archMap[${index}]`));
  if (maps.length > 0 && listed.length > 0) throw new Error('archMap: stands beside architectures, use one of them');
  if (maps.length === 0) return listed;
  const own = maps.find((entry) => entry.architecture === architecture);
  return own === undefined ? [] : [architecture, ...strings(own.subArchitectures, 'archMap.subArchitectures')];
}

function ruleOf(rule: Json, at: string, target: SeccompTarget): readonly SeccompRule[] {
  const names = rule.name === undefined ? strings(rule.names, `${at}.names`) : strings([rule.name], `${at}.name`);
  if (names.length === 0) throw new Error(`${at}.names: empty`);
  const includes = record(rule.includes ?? {}, `${at}.includes`);
  const excludes = record(rule.excludes ?? {}, `${at}.excludes`);
  if (!included(includes, at, target) || excluded(excludes, at, target)) return [];
  const args = array(rule.args, `${at}.args`).map((arg, index) => argumentOf(record(arg, `${at}.args[${index}]`), `${at}.args[${index}]`));
  const errnoRet = optionalWhole(rule.errnoRet, `${at}.errnoRet`);
  const kind = action(rule.action, `${at}.action`);
  return [{ names, action: kind, ...(errnoRet === undefined ? {} : { errnoRet }), ...(args.length === 0 ? {} : { args }) }];
}

/** All of what is listed must hold. */
function included(condition: Json, at: string, target: SeccompTarget): boolean {
  const { caps, arches, minKernel } = conditionOf(condition, `${at}.includes`);
  if (!caps.every((name) => target.capabilities.includes(name))) return false;
  if (arches.length > 0 && !arches.includes(shortArchitecture(target))) return false;
  return minKernel === undefined || kernelIsAtLeast(target.kernel ?? release(), minKernel);
}

/** Any of what is listed takes the rule away. */
function excluded(condition: Json, at: string, target: SeccompTarget): boolean {
  const { caps, arches, minKernel } = conditionOf(condition, `${at}.excludes`);
  if (caps.some((name) => target.capabilities.includes(name)) || arches.includes(shortArchitecture(target))) return true;
  return minKernel !== undefined && kernelIsAtLeast(target.kernel ?? release(), minKernel);
}

function conditionOf(condition: Json, at: string): { caps: readonly string[]; arches: readonly string[]; minKernel: string | undefined } {
  const minKernel = condition.minKernel;
  if (minKernel !== undefined && (typeof minKernel !== 'string' || !/^\d+\.\d+$/.test(minKernel))) {
    throw new Error(`${at}.minKernel: ${quote(minKernel)} is no kernel version`);
  }
  return { caps: strings(condition.caps, `${at}.caps`), arches: strings(condition.arches, `${at}.arches`), minKernel };
}

/** Docker's conditions have Go's names of architectures. */
function shortArchitecture({ architecture }: SeccompTarget): string {
  const names: Readonly<Record<string, string>> = { X86_64: 'amd64', AARCH64: 'arm64', PPC64LE: 'ppc64le', S390X: 's390x', RISCV64: 'riscv64' };
  return names[architecture.replace('SCMP_ARCH_', '')] ?? architecture;
}

function kernelIsAtLeast(kernel: string, wanted: string): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  const [wantedMajor = 0, wantedMinor = 0] = wanted.split('.').map(Number);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

function argumentOf(arg: Json, at: string): SeccompArgument {
  const op = arg.op;
  if (typeof op !== 'string' || !COMPARISONS.has(op)) throw new Error(`${at}.op: ${quote(op)} is no comparison`);
  const index = whole(arg.index ?? 0, `${at}.index`);
  if (index > 5) throw new Error(`${at}.index: ${index} is above 5`);
  const valueTwo = optionalWhole(arg.valueTwo, `${at}.valueTwo`);
  return { index, value: whole(arg.value ?? 0, `${at}.value`), ...(valueTwo === undefined ? {} : { valueTwo }), op };
}

function action(value: unknown, at: string): string {
  if (typeof value !== 'string' || !ACTIONS.has(value)) throw new Error(`${at}: ${quote(value)} is no action`);
  // A runtime that notifies needs somebody to listen, and without one every such call would hang the container.
  if (value === 'SCMP_ACT_NOTIFY') throw new Error(`${at}: notifying profiles are not supported`);
  return value;
}

function optionalWhole(value: unknown, at: string): number | undefined {
  return value === undefined || value === null ? undefined : whole(value, at);
}

function whole(value: unknown, at: string): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw new Error(`${at}: ${quote(value)} is no whole number that can be passed on exactly`);
  return value as number;
}

function record(value: unknown, at: string): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error(`${at}: no object`);
  return value as Json;
}

/** Docker's own profile writes `null` for an empty list. */
function array(value: unknown, at: string): readonly unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new Error(`${at}: no list`);
  return value;
}

function strings(value: unknown, at: string): readonly string[] {
  const list = array(value, at);
  if (!list.every((item) => typeof item === 'string')) throw new Error(`${at}: no list of texts`);
  return list;
}
