import { isIP } from 'node:net';
import { quote } from '#base/errors.ts';
import { CNI_VERSIONS, type CniVersion, isCniVersion, isObject, speaks } from './conf.ts';

/** A plugin's ADD result: JSON in the network's CNI version, with all that the plugin put there. */
export interface CniResult {
  readonly cniVersion: CniVersion;
  readonly [key: string]: unknown;
}

/** One address of a result, as CNI 1.x has it. */
interface IpEntry {
  readonly address: string;
  readonly gateway?: string;
  readonly interface?: number;
  readonly [key: string]: unknown;
}

/**
 * Reads what a plugin printed on ADD. A result in another version than `version`, the network's, is converted: the next
 * plugin reads `prevResult` in the network's version.
 * @throws {Error} that says what is wrong with it, without the plugin's name.
 */
export function parseResult(stdout: string, version: CniVersion): CniResult {
  if (stdout.trim() === '') throw new Error('exited with 0 but printed no result');
  let raw: unknown;
  try {
    raw = JSON.parse(stdout);
  } catch {
    throw new Error(`printed ${quote(stdout)} where a result in JSON was expected`);
  }
  if (!isObject(raw)) throw new Error(`printed ${quote(raw)} where a result was expected`);
  // Some plugins leave the version out; libcni then takes the network's, so plugins rely on that.
  const { cniVersion: own = version } = raw;
  if (!isCniVersion(own)) throw new Error(`answered in CNI version ${quote(own)}, which is not understood (understood: ${CNI_VERSIONS.join(', ')})`);
  const ips = readIps(raw, own);
  return own === version ? { ...raw, cniVersion: own } : convert(raw, ips, own, version);
}

/**
 * The pod's addresses without prefix length, in the order of the result. Those of other interfaces, on the host or in
 * the pod, are left out; an address that names no interface, or one that is not listed, is the pod's.
 */
export function addressesOf(result: CniResult, ifName: string): string[] {
  const interfaces = Array.isArray(result.interfaces) ? result.interfaces : [];
  const inPod = (ip: IpEntry, sameName: boolean): boolean => {
    const link: unknown = ip.interface === undefined ? undefined : interfaces[ip.interface];
    if (!isObject(link)) return true;
    return typeof link.sandbox === 'string' && link.sandbox !== '' && (!sameName || link.name === ifName);
  };
  const ips = readIps(result, result.cniVersion);
  const own = ips.filter((ip) => inPod(ip, true));
  // Some plugins name the pod's interface in their own way.
  return (own.length > 0 ? own : ips.filter((ip) => inPod(ip, false))).map((ip) => withoutPrefix(ip.address));
}

/** Kubernetes has room for one address of each family: a pod's status with two of them would be refused. */
export function firstOfEachFamily(addresses: readonly string[]): string[] {
  return addresses.filter((address, index) => addresses.findIndex((other) => isIP(other) === isIP(address)) === index);
}

/** The resolver that the network gives its pods, where the result names one. */
export function dnsOf(result: CniResult): { readonly servers: string[]; readonly searches: string[]; readonly options: string[] } | undefined {
  const { dns } = result;
  if (!isObject(dns)) return undefined;
  const texts = (value: unknown): string[] => (Array.isArray(value) ? value.filter((item) => typeof item === 'string' && !/[\s\0]/.test(item)) : []);
  const servers = texts(dns.nameservers).filter((server) => isIP(server) !== 0);
  if (servers.length === 0) return undefined;
  const searches = [...texts(dns.search), ...texts([dns.domain])].filter((name) => name !== '');
  return { servers, searches: [...new Set(searches)], options: texts(dns.options) };
}

/** The addresses in the form of CNI 1.x, checked. Up to 0.2.0 there were at most two, `ip4` and `ip6`. */
function readIps(raw: Record<string, unknown>, version: CniVersion): IpEntry[] {
  if (!speaks(version, '0.3.0')) {
    return ['ip4', 'ip6'].flatMap((key) => {
      const entry = raw[key];
      if (entry === undefined || entry === null) return [];
      if (!isObject(entry)) throw new Error(`answered with ${key}: ${quote(entry)}, which is not an object`);
      return [checkIp({ address: entry.ip, ...(typeof entry.gateway === 'string' ? { gateway: entry.gateway } : {}) }, `${key}.ip`)];
    });
  }
  const ips = raw.ips ?? [];
  if (!Array.isArray(ips)) throw new Error(`answered with ips: ${quote(ips)}, which is not a list`);
  return ips.map((entry, index) => checkIp(entry, `ips[${index}].address`));
}

function checkIp(entry: unknown, path: string): IpEntry {
  const address = isObject(entry) ? entry.address : undefined;
  if (typeof address !== 'string' || !/\/\d{1,3}$/.test(address) || isIP(withoutPrefix(address)) === 0) {
    throw new Error(`answered with ${path}: ${quote(address)}, which is not an address with its prefix length`);
  }
  return entry as IpEntry;
}

function convert(raw: Record<string, unknown>, ips: readonly IpEntry[], from: CniVersion, to: CniVersion): CniResult {
  const { ip4, ip6, ips: _ips, ...rest } = raw;
  const routes = speaks(from, '0.3.0') ? raw.routes : [ip4, ip6].flatMap((entry) => (isObject(entry) && Array.isArray(entry.routes) ? entry.routes : []));
  if (speaks(to, '0.3.0')) {
    // `version` ("4" or "6") of each address went with CNI 1.0.
    const entries = ips.map(({ version: _version, ...ip }) => (speaks(to, '1.0.0') ? ip : { version: familyOf(ip.address), ...ip }));
    return { ...rest, ...(routes === undefined ? {} : { routes }), ips: entries, cniVersion: to };
  }
  const first = (family: '4' | '6'): Record<string, unknown> => {
    const ip = ips.find(({ address }) => familyOf(address) === family);
    if (ip === undefined) return {};
    const own = Array.isArray(routes) ? routes.filter((route) => isObject(route) && familyOf(String(route.dst)) === family) : [];
    return { [`ip${family}`]: { ip: ip.address, ...(ip.gateway === undefined ? {} : { gateway: ip.gateway }), routes: own } };
  };
  return { cniVersion: to, ...first('4'), ...first('6'), ...(raw.dns === undefined ? {} : { dns: raw.dns }) };
}

function familyOf(cidr: string): '4' | '6' {
  return cidr.includes(':') ? '6' : '4';
}

function withoutPrefix(cidr: string): string {
  return cidr.slice(0, cidr.lastIndexOf('/'));
}
