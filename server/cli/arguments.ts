import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { nearest } from '../config/settings.ts';
import type { ImageCommand } from './image.ts';
import type { PodCommand } from './pod.ts';

/** What the command line asks for. */
export type Command =
  | { readonly name: 'daemon' | 'config'; readonly config: ConfigArguments }
  | { readonly name: 'sample' | 'version' | 'help' }
  | { readonly name: 'image'; readonly config: ConfigArguments; readonly command: ImageCommand }
  | { readonly name: 'pod'; readonly config: ConfigArguments; readonly command: PodCommand };

/** Where the configuration comes from; see `LoadOptions`. */
export interface ConfigArguments {
  readonly path: string | undefined;
  readonly overrides: Readonly<Record<string, string>>;
}

export const usage = `Usage:
  berth [daemon] [--config FILE] [--set SECTION.KEY=VALUE]...
      Serve the CRI. Without a file: /etc/berth/berth.conf, if it is there; then
      the *.conf files of the directory of the same name with .d.
  berth config [--config FILE] [--set SECTION.KEY=VALUE]...
      Print the configuration in effect and where each value comes from.
  berth config --default
      Print a configuration file with every key, its meaning and its default.
  berth image pull REFERENCE [--creds USER:PASSWORD | --authfile FILE] [--quiet]
      Have the running daemon pull an image, and show how far it is. Others see
      the password of --creds in the list of processes; they cannot see a file.
  berth image pulls
      Show the pulls under way, whoever asked for them.
  berth image load FILE|DIRECTORY|- [--name REFERENCE]
      Hand a docker or OCI archive (plain, gzip or zstd) or an OCI layout over.
  berth image ls [--quiet]
  berth image rm IMAGE...
  berth image check [--full] [--repair]
      Look for damage; --full reads every file. --repair removes the images that
      damaged layers belong to. Exit code 1 when something bad is left.
      All image commands take --config FILE and, but for rm, --json.
  berth pod ls [--slow] [--json]
      Show the pods seen lately, also those that failed, how long each took to
      come up and which step, such as a CNI plugin, took longest. --slow: the
      slowest first.
  berth pod timeline ID|[NAMESPACE/]NAME [--json]
      Show each step of a pod, and why it failed.
  berth version
  berth help
`;

/** A command line that cannot be understood. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const commands = ['daemon', 'config', 'image', 'pod', 'version', 'help'] as const;

const configOptions = { config: { type: 'string', short: 'c' }, set: { type: 'string', multiple: true } } as const;

/** @throws {UsageError} */
export function parseCommand(argv: readonly string[]): Command {
  const [first = '', ...rest] = argv;
  if (argv.includes('--help') || argv.includes('-h') || first === 'help') return { name: 'help' };
  if (first === '--version' || first === 'version') return { name: 'version' };
  if (first === '' || first.startsWith('-')) return parseDaemon(argv);
  if (first === 'daemon') return parseDaemon(rest);
  if (first === 'config') return parseConfigCommand(rest);
  if (first === 'image') return parseImage(rest);
  if (first === 'pod') return parsePod(rest);
  throw unknown('command', first, commands);
}

function parseDaemon(argv: readonly string[]): Command {
  const { values, positionals } = parse(argv, configOptions);
  refuseMore(positionals);
  return { name: 'daemon', config: configArguments(values) };
}

function parseConfigCommand(argv: readonly string[]): Command {
  const { values, positionals } = parse(argv, { ...configOptions, default: { type: 'boolean' } });
  refuseMore(positionals);
  return values.default === true ? { name: 'sample' } : { name: 'config', config: configArguments(values) };
}

const imageVerbs = ['load', 'pull', 'pulls', 'ls', 'rm', 'check'] as const;
const json = { json: { type: 'boolean', default: false } } as const;
const quiet = { quiet: { type: 'boolean', short: 'q', default: false } } as const;

function parseImage(argv: readonly string[]): Command {
  const [verb = '', ...rest] = argv;
  if (verb === '') throw new UsageError(`image: which of ${imageVerbs.join(', ')}?`);
  const known = imageVerbs.find((name) => name === verb);
  if (known === undefined) throw unknown('image command', verb, imageVerbs);
  const { config, command } = imageParsers[known](rest);
  return { name: 'image', config: configArguments(config), command };
}

type ParsedImage = { readonly config: Parameters<typeof configArguments>[0]; readonly command: ImageCommand };

const imageParsers: Readonly<Record<(typeof imageVerbs)[number], (argv: readonly string[]) => ParsedImage>> = {
  load: (argv) => {
    const { values, positionals } = parse(argv, { ...configOptions, ...json, name: { type: 'string' } });
    const source = one(positionals, 'image load: no file, directory or - given');
    return { config: values, command: { verb: 'load', source, imageName: values.name, json: values.json } };
  },
  pull: (argv) => {
    const { values, positionals } = parse(argv, { ...configOptions, ...json, ...quiet, creds: { type: 'string' }, authfile: { type: 'string' } });
    const reference = one(positionals, 'image pull: no reference given');
    const { creds, authfile } = values;
    if (creds !== undefined && authfile !== undefined) throw new UsageError('image pull: --creds and --authfile exclude each other');
    const request = { reference, ...(creds === undefined ? {} : parseCreds(creds)), ...(authfile === undefined ? {} : { authFile: resolve(authfile) }) };
    return { config: values, command: { verb: 'pull', request, quiet: values.quiet, json: values.json } };
  },
  pulls: (argv) => {
    const { values, positionals } = parse(argv, { ...configOptions, ...json });
    refuseMore(positionals);
    return { config: values, command: { verb: 'pulls', json: values.json } };
  },
  ls: (argv) => {
    const { values, positionals } = parse(argv, { ...configOptions, ...json, ...quiet });
    refuseMore(positionals);
    return { config: values, command: { verb: 'ls', quiet: values.quiet, json: values.json } };
  },
  rm: (argv) => {
    const { values, positionals } = parse(argv, configOptions);
    if (positionals.length === 0) throw new UsageError('image rm: no image given');
    return { config: values, command: { verb: 'rm', names: positionals } };
  },
  check: (argv) => {
    const flag = { type: 'boolean', default: false } as const;
    const { values, positionals } = parse(argv, { ...configOptions, ...json, full: flag, repair: flag });
    refuseMore(positionals);
    return { config: values, command: { verb: 'check', full: values.full, repair: values.repair, json: values.json } };
  },
};

const podVerbs = ['ls', 'timeline'] as const;

function parsePod([verb = '', ...rest]: readonly string[]): Command {
  if (verb === 'ls') {
    const { values, positionals } = parse(rest, { ...configOptions, ...json, slow: { type: 'boolean', default: false } });
    refuseMore(positionals);
    return { name: 'pod', config: configArguments(values), command: { verb, slow: values.slow, json: values.json } };
  }
  if (verb === 'timeline') {
    const { values, positionals } = parse(rest, { ...configOptions, ...json });
    return { name: 'pod', config: configArguments(values), command: { verb, pod: one(positionals, 'pod timeline: no pod given'), json: values.json } };
  }
  throw verb === '' ? new UsageError(`pod: which of ${podVerbs.join(', ')}?`) : unknown('pod command', verb, podVerbs);
}

function one([first, ...more]: readonly string[], missing: string): string {
  if (first === undefined) throw new UsageError(missing);
  refuseMore(more);
  return first;
}

/** Nothing of it is quoted in an error. */
function parseCreds(creds: string): { username: string; password: string } {
  const colon = creds.indexOf(':');
  if (colon < 1) throw new UsageError('image pull: --creds is not USER:PASSWORD');
  return { username: creds.slice(0, colon), password: creds.slice(colon + 1) };
}

function parse<const T extends NonNullable<Parameters<typeof parseArgs>[0]>['options']>(argv: readonly string[], options: T) {
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: true, strict: true });
  } catch (err) {
    throw new UsageError(err instanceof Error ? err.message : String(err), { cause: err });
  }
}

function configArguments(values: { config?: string | undefined; set?: string[] | undefined }): ConfigArguments {
  const overrides: Record<string, string> = {};
  for (const item of values.set ?? []) {
    const equals = item.indexOf('=');
    if (equals < 1) throw new UsageError(`--set ${item}: not SECTION.KEY=VALUE`);
    overrides[item.slice(0, equals)] = item.slice(equals + 1);
  }
  return { path: values.config, overrides };
}

function refuseMore([extra]: readonly string[]): void {
  if (extra !== undefined) throw new UsageError(`unexpected argument: ${extra}`);
}

function unknown(what: string, word: string, known: readonly string[]): UsageError {
  const near = nearest(word, known);
  return new UsageError(`unknown ${what}: ${word}${near === undefined ? '' : `; did you mean ${near}?`}`);
}
