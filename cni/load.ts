import { constants } from 'node:fs';
import { access, readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describeError, isErrno } from '#base/errors.ts';
import { type CniVersion, type NetworkConf, type PluginConf, parseConf, parsePluginConf } from './conf.ts';
import { negotiate, type PluginVersions } from './versions.ts';

/** A network that a file describes well; its plugins may still be missing. */
export interface Network {
  readonly file: string;
  readonly conf: NetworkConf;
  /** A sentence for each plugin that cannot be executed, or does not speak the configuration's version. */
  readonly missing: readonly string[];
}

/** What the directories held at one moment. */
export interface Inventory {
  /** By file name. */
  readonly networks: readonly Network[];
  /** Files that were passed over, and why. */
  readonly problems: readonly { readonly file: string; readonly reason: string }[];
  /** Why the directory could not be read; `undefined` when it could. */
  readonly unreadable: string | undefined;
  /** Plugins found, type to path. */
  readonly plugins: ReadonlyMap<string, string>;
}

const CONF_FILE = /\.(?:conf|conflist|json)$/;

/** Real configurations have a few KiB; a log file renamed by mistake must not fill the memory. */
const MAX_FILE_BYTES = 1024 * 1024;

/** The reference plugins that execute `ipam.type` as a binary. Others may mean something of their own by it. */
const DELEGATING = new Set(['bridge', 'ptp', 'macvlan', 'ipvlan', 'vlan', 'host-device', 'dummy', 'tap']);

/**
 * Reads the configurations and looks for their plugins, whose versions decide which one a network is spoken to in. A bad
 * file is a problem in the inventory and hides no other. Without `versions` plugins are not asked.
 */
export async function takeInventory(networkDir: string, pluginDirs: readonly string[], versions?: Pick<PluginVersions, 'of'>): Promise<Inventory> {
  const networks: Network[] = [];
  const problems: { file: string; reason: string }[] = [];
  const plugins = new Map<string, string>();
  let names: string[];
  try {
    names = (await readdir(networkDir)).filter((name) => CONF_FILE.test(name)).sort();
  } catch (err) {
    const unreadable = isErrno(err, 'ENOENT') ? `network directory ${networkDir} does not exist` : `network directory ${networkDir}: ${describeError(err)}`;
    return { networks, problems, plugins, unreadable };
  }
  for (const name of names) {
    const file = join(networkDir, name);
    try {
      const { conf, offered } = await readConf(file, networkDir);
      const same = networks.find((network) => network.conf.name === conf.name);
      if (same !== undefined) throw new Error(`name: "${conf.name}" is also the name in ${basename(same.file)}, which comes first`);
      const missing = await findPlugins(conf, pluginDirs, plugins);
      networks.push({ file, ...(await settleVersion({ conf, missing }, { offered, plugins, versions })) });
    } catch (err) {
      problems.push({ file, reason: describeError(err) });
    }
  }
  return { networks, problems, plugins, unreadable: undefined };
}

/**
 * The path of a plugin's binary, from the first directory that has it.
 * @throws {Error} that names it and where it was looked for.
 */
export async function findPlugin(type: string, pluginDirs: readonly string[]): Promise<string> {
  let unfit: string | undefined;
  for (const dir of pluginDirs) {
    const path = join(dir, type);
    try {
      if (!(await stat(path)).isFile()) continue;
    } catch (err) {
      if (!isErrno(err, 'ENOENT', 'ENOTDIR')) unfit ??= `plugin ${type} at ${path}: ${describeError(err)}`;
      continue;
    }
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      unfit ??= `plugin ${type} at ${path} is not executable`;
    }
  }
  throw new Error(unfit ?? `plugin ${type} was not found in ${pluginDirs.join(', ') || 'any directory, since no plugin directory is configured'}`);
}

async function readConf(file: string, networkDir: string): Promise<{ conf: NetworkConf; offered: readonly CniVersion[] }> {
  const { conf, offered, wantsMorePlugins } = parseConf(await readText(file));
  const plugins = wantsMorePlugins ? [...conf.plugins, ...(await readPluginFiles(join(networkDir, conf.name)))] : conf.plugins;
  if (plugins.length === 0) throw new Error('plugins: names no plugin');
  return { conf: { ...conf, plugins }, offered };
}

/** The plugins that a list gets from a directory of its name: one in each `.conf`, by file name. Source: libcni 1.3. */
async function readPluginFiles(dir: string): Promise<PluginConf[]> {
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return [];
    throw err;
  }
  const plugins: PluginConf[] = [];
  for (const name of names.filter((entry) => entry.endsWith('.conf')).sort()) {
    try {
      plugins.push(parsePluginConf(await readText(join(dir, name))));
    } catch (err) {
      throw new Error(`${join(basename(dir), name)}: ${describeError(err)}`, { cause: err });
    }
  }
  return plugins;
}

async function readText(file: string): Promise<string> {
  const found = await stat(file);
  if (!found.isFile()) throw new Error('is not a file');
  const { size } = found;
  if (size > MAX_FILE_BYTES) throw new Error(`is ${size} bytes long, more than ${MAX_FILE_BYTES}`);
  return await readFile(file, 'utf8');
}

async function findPlugins(conf: NetworkConf, pluginDirs: readonly string[], found: Map<string, string>): Promise<string[]> {
  const missing: string[] = [];
  for (const type of pluginTypes(conf)) {
    if (found.has(type)) continue;
    try {
      found.set(type, await findPlugin(type, pluginDirs));
    } catch (err) {
      missing.push(describeError(err));
    }
  }
  return missing;
}

/** A network with a missing plugin keeps the version it has: it is not used. */
async function settleVersion(
  { conf, missing }: Pick<Network, 'conf' | 'missing'>,
  by: { readonly offered: readonly CniVersion[]; readonly plugins: ReadonlyMap<string, string>; readonly versions: Pick<PluginVersions, 'of'> | undefined },
): Promise<Pick<Network, 'conf' | 'missing'>> {
  const { versions } = by;
  if (missing.length > 0 || versions === undefined) return { conf, missing };
  const spoken = await Promise.all(pluginTypes(conf).map(async (type) => ({ type, spoken: await versions.of(type, by.plugins.get(type) ?? '') })));
  try {
    return { conf: { ...conf, cniVersion: negotiate(by.offered, spoken) }, missing };
  } catch (err) {
    return { conf, missing: [describeError(err)] };
  }
}

/** The types of all binaries that the network needs. */
function pluginTypes(conf: NetworkConf): string[] {
  return [...new Set(conf.plugins.flatMap((plugin) => [plugin.type, ...ipamType(plugin)]))];
}

function ipamType(plugin: PluginConf): string[] {
  const { ipam } = plugin as { ipam?: { type?: unknown } | null };
  const type = ipam?.type;
  return DELEGATING.has(plugin.type) && typeof type === 'string' && /^[^/\\\0]+$/.test(type) ? [type] : [];
}
