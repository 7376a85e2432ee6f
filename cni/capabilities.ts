import { isIP } from 'node:net';
import { CriError, quote } from '#base/errors.ts';
import { readBandwidth } from './bandwidth.ts';
import type { NetworkConf, PluginConf } from './conf.ts';
import type { PodNetwork } from './pod-network.ts';

/** Values by capability name; names and shapes are those of CNI's CONVENTIONS.md and, with a dot, of Kubernetes runtimes. */
export type CapabilityArgs = Readonly<Record<string, unknown>>;

/**
 * The values for those capabilities that some plugin of the network declares and the pod has something to say about.
 * @throws {CriError} `invalidArgument` for annotations that cannot be honoured, whether declared or not: the pod's author
 * learns of the mistake on every network.
 */
export function capabilityArgs(conf: NetworkConf, pod: PodNetwork, podCidr: string): CapabilityArgs {
  const known: Record<string, unknown> = {
    portMappings: portMappings(pod),
    bandwidth: readBandwidth(pod.annotations),
    ipRanges: podCidr === '' ? undefined : parsePodCidr(podCidr).map((subnet) => [{ subnet }]),
    dns: pod.dns,
    ips: readIps(pod.annotations),
    mac: readMac(pod.annotations),
    aliases: readAliases(pod.annotations),
    cgroupPath: pod.cgroupPath === '' ? undefined : pod.cgroupPath,
    'io.kubernetes.cri.pod-annotations': Object.keys(pod.annotations).length === 0 ? undefined : pod.annotations,
  };
  return Object.fromEntries(Object.entries(known).filter(([name, value]) => value !== undefined && conf.plugins.some((plugin) => declares(plugin, name))));
}

/** Throws as `capabilityArgs()`, whatever the network. */
export function checkAnnotations({ annotations }: Pick<PodNetwork, 'annotations'>): void {
  for (const read of [readBandwidth, readIps, readMac, readAliases]) read(annotations);
}

/** One plugin's `runtimeConfig`: what it declares of what there is; `undefined` when that is nothing. */
export function runtimeConfig(plugin: PluginConf, args: CapabilityArgs): Record<string, unknown> | undefined {
  const own = Object.entries(args).filter(([name]) => declares(plugin, name));
  return own.length === 0 ? undefined : Object.fromEntries(own);
}

/**
 * The subnets of a pod CIDR: one, or two joined by a comma for dual stack.
 * @throws {CriError} `invalidArgument`.
 */
export function parsePodCidr(text: string): string[] {
  return text.split(',').map((part) => {
    const cidr = part.trim();
    const [address = '', bits = '', ...more] = cidr.split('/');
    const family = isIP(address);
    if (more.length > 0 || family === 0 || !/^\d{1,3}$/.test(bits) || Number(bits) > (family === 4 ? 32 : 128)) {
      throw new CriError('invalidArgument', `pod cidr: ${quote(cidr)} is not an address range such as 10.1.0.0/24`);
    }
    return cidr;
  });
}

/** What a pod may ask for on networks whose plugins declare the capability: addresses, a MAC address, more names. */
const IPS = 'io.berth.cni.ips';
const MAC = 'io.berth.cni.mac';
const ALIASES = 'io.berth.cni.aliases';

/** Addresses with or without prefix length, separated by commas. */
function readIps(annotations: PodNetwork['annotations']): string[] | undefined {
  return readList(annotations, IPS, (item) => {
    const [address = '', bits, ...more] = item.split('/');
    const family = isIP(address);
    return more.length === 0 && family !== 0 && (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128)));
  });
}

function readMac(annotations: PodNetwork['annotations']): string | undefined {
  const text = annotations[MAC];
  if (text === undefined) return undefined;
  // The lowest bit of the first byte marks a group of hosts.
  if (!/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i.test(text) || /^[0:]+$/.test(text)) throw refused(MAC, text, 'is not the MAC address of one host');
  return text.toLowerCase();
}

/** DNS names, separated by commas. */
function readAliases(annotations: PodNetwork['annotations']): string[] | undefined {
  return readList(annotations, ALIASES, (item) => item.length <= 253 && /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/i.test(item));
}

function readList(annotations: PodNetwork['annotations'], key: string, fits: (item: string) => boolean): string[] | undefined {
  const text = annotations[key];
  if (text === undefined) return undefined;
  const items = text.split(',').map((item) => item.trim());
  const bad = items.find((item) => !fits(item));
  if (bad !== undefined) throw refused(key, bad, key === IPS ? 'is not an address' : 'is not a DNS name');
  return items;
}

function refused(key: string, value: string, why: string): CriError {
  return new CriError('invalidArgument', `annotation ${key}: ${quote(value)} ${why}`);
}

function declares(plugin: PluginConf, name: string): boolean {
  return plugin.capabilities?.[name] === true;
}

function portMappings({ portMappings: all }: PodNetwork): object[] | undefined {
  const asked = all.filter(({ hostPort }) => hostPort !== 0);
  if (asked.length === 0) return undefined;
  return asked.map(({ hostIP, ...mapping }) => ({ ...mapping, ...(hostIP === '' ? {} : { hostIP }) }));
}
