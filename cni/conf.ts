import { quote } from '#base/errors.ts';

/** CNI versions whose configurations and results are understood, oldest first. */
export const CNI_VERSIONS = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof CNI_VERSIONS)[number];

/** One plugin's part of a network configuration: the keys named here, and any others, which belong to the plugin. */
export interface PluginConf {
  /** The file name of the plugin's binary. */
  readonly type: string;
  /** Which values the plugin takes in `runtimeConfig`. */
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [key: string]: unknown;
}

/** A network configuration list; the single plugin of a `.conf` becomes a list of one. Plain JSON. */
export interface NetworkConf {
  readonly name: string;
  /** The version to speak with the plugins. */
  readonly cniVersion: CniVersion;
  readonly plugins: readonly PluginConf[];
  readonly disableCheck: boolean;
  readonly disableGC: boolean;
}

/** A configuration as written: `plugins` may lie in other files, see `wantsMorePlugins`. */
export interface ParsedConf {
  /** In the newest version offered that is understood. */
  readonly conf: NetworkConf;
  /** The versions offered that are understood, never empty: the plugins may not speak the newest. */
  readonly offered: readonly CniVersion[];
  /** CNI 1.1: unless `loadOnlyInlinedPlugins` is set, a list is extended by the files in a directory of its name. */
  readonly wantsMorePlugins: boolean;
}

/**
 * Reads a configuration of either form: one with `plugins` is a list, one with `type` a single plugin.
 * @throws {Error} that says which key is wrong, without the file's name.
 */
export function parseConf(text: string): ParsedConf {
  const raw = parseObject(text);
  const { name } = raw;
  // CNI spec 1.1, section 1: a name begins with an alphanumeric character, then `_`, `.` and `-` may follow.
  if (typeof name !== 'string' || !/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(name)) throw new Error(`name: ${quote(name)} is not a network name`);
  const isList = raw.plugins !== undefined || raw.type === undefined;
  const listed = raw.plugins ?? [];
  if (!Array.isArray(listed)) throw new Error(`plugins: ${quote(listed)} is not a list`);
  const onlyInlined = flag(raw, 'loadOnlyInlinedPlugins');
  if (isList && listed.length === 0 && (onlyInlined || raw.plugins !== undefined)) throw new Error('plugins: names no plugin');
  const plugins = isList ? listed.map((plugin, index) => pluginConf(plugin, `plugins[${index}].`)) : [pluginConf(raw, '')];
  const offered = offeredVersions(raw);
  return {
    conf: { name, cniVersion: offered.at(-1) ?? '0.1.0', plugins, disableCheck: flag(raw, 'disableCheck'), disableGC: flag(raw, 'disableGC') },
    offered,
    wantsMorePlugins: isList && !onlyInlined,
  };
}

/** Reads one plugin's configuration from a file of its own. */
export function parsePluginConf(text: string): PluginConf {
  return pluginConf(parseObject(text), '');
}

/** True when the network's version has what came with `since`. */
export function speaks(version: CniVersion, since: CniVersion): boolean {
  return CNI_VERSIONS.indexOf(version) >= CNI_VERSIONS.indexOf(since);
}

export function isCniVersion(value: unknown): value is CniVersion {
  return (CNI_VERSIONS as readonly unknown[]).includes(value);
}

/** True for a JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseObject(text: string): Record<string, unknown> {
  if (text.trim() === '') throw new Error('is empty');
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (err) {
    throw new Error(`is not JSON: ${(err as Error).message}`, { cause: err });
  }
  if (!isObject(raw)) throw new Error(`is not a JSON object but ${quote(raw)}`);
  return raw;
}

function pluginConf(raw: unknown, path: string): PluginConf {
  if (!isObject(raw)) throw new Error(`${path.slice(0, -1)}: ${quote(raw)} is not an object`);
  const { type, capabilities } = raw;
  // The type is a file name in the plugin directories and must not lead out of them.
  if (typeof type !== 'string' || type === '' || type === '.' || type === '..' || /[/\\\0]/.test(type)) {
    throw new Error(`${path}type: ${quote(type)} is not the name of a plugin`);
  }
  if (capabilities !== undefined && !isObject(capabilities)) throw new Error(`${path}capabilities: ${quote(capabilities)} is not an object`);
  return raw as PluginConf;
}

/** The understood versions among `cniVersion` and, since CNI 1.1, `cniVersions`, oldest first; 0.1.0 where none is given. */
function offeredVersions(raw: Record<string, unknown>): CniVersion[] {
  const { cniVersion = '', cniVersions = [] } = raw;
  if (!Array.isArray(cniVersions)) throw new Error(`cniVersions: ${quote(cniVersions)} is not a list`);
  const offered: unknown[] = [...(cniVersion === '' ? [] : [cniVersion]), ...cniVersions];
  if (offered.length === 0) return ['0.1.0'];
  const known = CNI_VERSIONS.filter((version) => offered.includes(version));
  if (known.length === 0) throw new Error(`cniVersion: ${offered.map(quote).join(', ')} is not understood (understood: ${CNI_VERSIONS.join(', ')})`);
  return known;
}

/** Booleans come as strings too: early configurations wrote `"disableCheck": "true"`. */
function flag(raw: Record<string, unknown>, key: string): boolean {
  const value = raw[key] ?? false;
  if (typeof value === 'boolean') return value;
  const text = typeof value === 'string' ? value.toLowerCase() : '';
  if (text !== 'true' && text !== 'false') throw new Error(`${key}: ${quote(value)} is neither true nor false`);
  return text === 'true';
}
