import { CriError } from '#base/errors.ts';
import { type NetworkConf, type PluginConf, speaks } from './conf.ts';
import type { PodNetwork } from './pod-network.ts';

/** The plugin that maps host ports, as it is put behind a chain that has none. */
const PORTMAP: PluginConf = { type: 'portmap', capabilities: { portMappings: true }, snat: true };

/**
 * The network as a pod with host ports gets it: with `portmap` at its end unless some plugin maps ports already.
 * @throws {CriError} `failedPrecondition` where that cannot be done.
 */
export async function withPortMapping(conf: NetworkConf, pod: PodNetwork, findPlugin: (type: string) => Promise<unknown>): Promise<NetworkConf> {
  const wanted = pod.portMappings.find(({ hostPort }) => hostPort !== 0);
  if (wanted === undefined || conf.plugins.some(({ capabilities }) => capabilities?.portMappings === true)) return conf;
  const refused = (why: string, cause?: unknown): CriError =>
    new CriError('failedPrecondition', `host port ${wanted.hostPort}: no plugin of network ${conf.name} maps host ports, and ${why}`, { cause });
  // portmap wants the result of the plugin before it, which came with 0.3.0.
  if (!speaks(conf.cniVersion, '0.3.0')) throw refused(`portmap cannot be added to a chain in CNI ${conf.cniVersion}`);
  try {
    await findPlugin(PORTMAP.type);
  } catch (err) {
    throw refused('portmap cannot be added', err);
  }
  return { ...conf, plugins: [...conf.plugins, PORTMAP] };
}
