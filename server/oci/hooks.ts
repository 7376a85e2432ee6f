import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, describeError, isErrno, quote } from '#base/errors.ts';
import type { HookStage, OciHook, OciHooks, OciSpec } from './spec.ts';

/** A program that an OCI runtime runs at some stages of the containers that it is meant for. Source: oci-hooks(5), schema 1.0.0. */
export interface HookFile {
  readonly hook: OciHook;
  readonly stages: readonly HookStage[];
  readonly when: HookCondition;
}

/** All that is set has to be true. */
export interface HookCondition {
  readonly always?: boolean;
  /** Patterns of a name to a pattern of its value: each must be true of some annotation. */
  readonly annotations?: readonly (readonly [RegExp, RegExp])[];
  /** One of them must match the container's program. */
  readonly commands?: readonly RegExp[];
  readonly hasBindMounts?: boolean;
}

/** What the conditions are asked of. */
export interface HookSubject {
  /** The pod's and the container's. */
  readonly annotations: Readonly<Record<string, string>>;
  /** argv[0]. */
  readonly command: string;
  /** The request has mounts of its own. */
  readonly hasBindMounts: boolean;
}

const STAGES: readonly HookStage[] = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'];

/** Groups hooks as config.json has them; the order stays. */
export function groupHooks(hooks: readonly { readonly stage: HookStage; readonly hook: OciHook }[]): OciHooks {
  const groups: Partial<Record<HookStage, OciHook[]>> = {};
  for (const { stage, hook } of hooks) groups[stage] = [...(groups[stage] ?? []), hook];
  return groups;
}

/** The spec with the hooks that are meant for its container, after those that it has. */
export function injectHooks(spec: OciSpec, files: readonly HookFile[], subject: HookSubject): OciSpec {
  const meant = files.filter(({ when }) => isMeant(when, subject)).flatMap(({ hook, stages }) => stages.map((stage) => ({ stage, hook })));
  if (meant.length === 0) return spec;
  const own = Object.entries(spec.hooks ?? {}).flatMap(([stage, hooks]) => hooks.map((hook) => ({ stage: stage as HookStage, hook })));
  return { ...spec, hooks: groupHooks([...own, ...meant]) };
}

function isMeant({ always, annotations = [], commands, hasBindMounts }: HookCondition, subject: HookSubject): boolean {
  if (always === false) return false;
  if (hasBindMounts !== undefined && hasBindMounts !== subject.hasBindMounts) return false;
  if (commands !== undefined && !commands.some((pattern) => pattern.test(subject.command))) return false;
  return annotations.every(([name, value]) => Object.entries(subject.annotations).some(([key, text]) => name.test(key) && value.test(text)));
}

/** Reads one file. @throws {CriError} `invalidArgument` with what is wrong in it. */
export function parseHookFile(path: string, text: string): HookFile {
  const bad = (what: string): CriError => new CriError('invalidArgument', `${path}: ${what}`);
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (err) {
    throw bad(`cannot be parsed: ${describeError(err)}`);
  }
  const { version, hook, when, stages, ...rest } = table(raw, 'the file', bad);
  const unknown = Object.keys(rest)[0];
  if (unknown !== undefined) throw bad(`${unknown}: is not known`);
  if (version !== '1.0.0') throw bad(`version: ${quote(String(version))} is not 1.0.0`);
  const wrong = texts(stages, 'stages', bad).find((stage) => !STAGES.includes(stage as HookStage));
  if (wrong !== undefined) throw bad(`stages: ${quote(wrong)} is none of ${STAGES.join(', ')}`);
  if ((stages as string[]).length === 0) throw bad('stages: is empty');
  return { hook: parseHook(table(hook, 'hook', bad), bad), stages: stages as HookStage[], when: parseWhen(table(when, 'when', bad), bad) };
}

type Bad = (what: string) => CriError;

function parseHook({ path, args, env, timeout, ...rest }: Record<string, unknown>, bad: Bad): OciHook {
  const unknown = Object.keys(rest)[0];
  if (unknown !== undefined) throw bad(`hook.${unknown}: is not known`);
  if (typeof path !== 'string' || !path.startsWith('/')) throw bad(`hook.path: ${quote(String(path))} is no absolute path`);
  if (timeout !== undefined && (typeof timeout !== 'number' || timeout < 0)) throw bad(`hook.timeout: ${quote(String(timeout))} is no number of seconds`);
  return {
    path,
    ...(args === undefined ? {} : { args: texts(args, 'hook.args', bad) }),
    ...(env === undefined ? {} : { env: texts(env, 'hook.env', bad) }),
    ...(timeout === undefined ? {} : { timeout }),
  };
}

function parseWhen({ always, annotations, commands, hasBindMounts, ...rest }: Record<string, unknown>, bad: Bad): HookCondition {
  const unknown = Object.keys(rest)[0];
  if (unknown !== undefined) throw bad(`when.${unknown}: is not known`);
  for (const [key, value] of Object.entries({ always, hasBindMounts })) {
    if (value !== undefined && typeof value !== 'boolean') throw bad(`when.${key}: is neither true nor false`);
  }
  const when = {
    ...(always === undefined ? {} : { always: always as boolean }),
    ...(hasBindMounts === undefined ? {} : { hasBindMounts: hasBindMounts as boolean }),
    ...(commands === undefined ? {} : { commands: texts(commands, 'when.commands', bad).map((text) => pattern(text, 'when.commands', bad)) }),
    ...(annotations === undefined ? {} : { annotations: parseAnnotations(table(annotations, 'when.annotations', bad), bad) }),
  };
  if (Object.keys(when).length === 0) throw bad('when: is empty, so that it is never meant for any container');
  return when;
}

function parseAnnotations(patterns: Record<string, unknown>, bad: Bad): (readonly [RegExp, RegExp])[] {
  return Object.entries(patterns).map(([name, value]) => [pattern(name, 'when.annotations', bad), pattern(String(value), 'when.annotations', bad)] as const);
}

function pattern(text: string, field: string, bad: Bad): RegExp {
  try {
    return new RegExp(text);
  } catch {
    throw bad(`${field}: ${quote(text)} is no regular expression`);
  }
}

function table(value: unknown, field: string, bad: Bad): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(`${field}: is no table`);
  return value as Record<string, unknown>;
}

function texts(value: unknown, field: string, bad: Bad): string[] {
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) throw bad(`${field}: is no list of texts`);
  return value;
}

/**
 * The hooks of some directories, looked at anew for each container: a file of a later directory takes the place of one
 * that has the same name in an earlier one. Files are parsed again when they have changed; a bad one is left out and reported
 * each time.
 */
export class HookDirectories {
  readonly #dirs: () => readonly string[];
  readonly #report: (path: string, err: unknown) => void;
  readonly #parsed = new Map<string, { readonly stamp: string; readonly file: HookFile }>();

  constructor(dirs: () => readonly string[], report: (path: string, err: unknown) => void) {
    this.#dirs = dirs;
    this.#report = report;
  }

  async read(): Promise<readonly HookFile[]> {
    const paths = new Map<string, string>();
    for (const dir of this.#dirs()) for (const name of await listJson(dir)) paths.set(name, join(dir, name));
    const sorted = [...paths].sort(([a], [b]) => (a < b ? -1 : 1));
    const files = await Promise.all(sorted.map(([, path]) => this.#parse(path)));
    return files.filter((file) => file !== undefined);
  }

  async #parse(path: string): Promise<HookFile | undefined> {
    try {
      const { mtimeMs, size, ino } = await stat(path);
      const stamp = `${mtimeMs} ${size} ${ino}`;
      const known = this.#parsed.get(path);
      if (known?.stamp === stamp) return known.file;
      const file = parseHookFile(path, await readFile(path, 'utf8'));
      await stat(file.hook.path);
      this.#parsed.set(path, { stamp, file });
      return file;
    } catch (err) {
      if (!isErrno(err, 'ENOENT') || err.path !== path) this.#report(path, err);
      return undefined;
    }
  }
}

async function listJson(dir: string): Promise<readonly string[]> {
  try {
    return (await readdir(dir)).filter((name) => name.endsWith('.json'));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return [];
    throw err;
  }
}
