import { parseArgs } from 'node:util';
import { nearest } from '../config/settings.ts';

/** What the command line asks for. */
export type Command =
  | { readonly name: 'daemon' | 'config'; readonly config: ConfigArguments }
  | { readonly name: 'sample' | 'version' | 'help' }
  | { readonly name: 'image load'; readonly config: ConfigArguments; readonly source: string; readonly imageName: string | undefined };

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
  berth image load FILE|DIRECTORY|- [--name REFERENCE] [--config FILE]
      Hand a docker or OCI archive, or an OCI layout, to the running daemon.
  berth version
  berth help
`;

/** A command line that cannot be understood. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const commands = ['daemon', 'config', 'image', 'version', 'help'] as const;

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

function parseImage(argv: readonly string[]): Command {
  const [verb = '', ...rest] = argv;
  if (verb !== 'load') throw verb === '' ? new UsageError('image: which of load?') : unknown('image command', verb, ['load']);
  const { values, positionals } = parse(rest, { ...configOptions, name: { type: 'string' } });
  const [source, ...more] = positionals;
  if (source === undefined) throw new UsageError('image load: no file, directory or - given');
  refuseMore(more);
  return { name: 'image load', config: configArguments(values), source, imageName: values.name };
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
