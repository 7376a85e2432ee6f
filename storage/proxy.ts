import { BlockList, isIP } from 'node:net';

type Environment = Readonly<Record<string, string | undefined>>;

/** The proxies of an environment, with the meaning that Go programs give to its variables: the same unit file serves both. */
export class Proxies {
  readonly #http: string;
  readonly #https: string;
  readonly #exceptions: readonly Exception[];

  constructor(env: Environment) {
    const read = (name: string): string => env[name] || env[name.toLowerCase()] || '';
    this.#http = withScheme(read('HTTP_PROXY'));
    this.#https = withScheme(read('HTTPS_PROXY'));
    this.#exceptions = read('NO_PROXY')
      .split(',')
      .map((entry) => entry.trim().toLowerCase())
      .filter((entry) => entry !== '')
      .map(parseException);
  }

  /** The proxy to go through to reach `url`; empty for none. Source: golang.org/x/net/http/httpproxy. */
  of(url: URL): string {
    const proxy = url.protocol === 'https:' ? this.#https : this.#http;
    const host = url.hostname.toLowerCase().replace(/^\[(.*)\]$/, '$1');
    const port = url.port || (url.protocol === 'https:' ? '443' : '80');
    const direct = proxy === '' || isLoopback(host) || this.#exceptions.some((exception) => exception(host, port));
    return direct ? '' : proxy;
  }
}

/** Whether a host, an address without brackets or a name, is reached without the proxy. */
type Exception = (host: string, port: string) => boolean;

/** `*`, an address, a range such as `10.0.0.0/8`, `name` with its subdomains, `.name` for these alone; each but the first two with a port or not. */
function parseException(entry: string): Exception {
  if (entry === '*') return () => true;
  const [, network = '', bits = ''] = /^([^/]+)\/(\d+)$/.exec(entry) ?? [];
  if (isIP(network) !== 0) {
    const family = isIP(network) === 4 ? 'ipv4' : 'ipv6';
    if (Number(bits) > (family === 'ipv4' ? 32 : 128)) return () => false;
    const range = new BlockList();
    range.addSubnet(network, Number(bits), family);
    return (host) => isIP(host) !== 0 && range.check(host, isIP(host) === 4 ? 'ipv4' : 'ipv6');
  }
  const [, bracketed, plain = entry, onPort] = isIP(entry) === 6 ? [] : (/^(?:\[([^\]]+)\]|([^:]*))(?::(\d+))?$/.exec(entry) ?? []);
  const name = (bracketed ?? plain).replace(/^\*(?=\.)/, '');
  const matches =
    isIP(name) !== 0
      ? (host: string) => host === name
      : (host: string) => (name.startsWith('.') ? host.endsWith(name) : host === name || host.endsWith(`.${name}`));
  return (host, port) => (onPort === undefined || onPort === port) && matches(host);
}

function withScheme(proxy: string): string {
  return proxy === '' || proxy.includes('://') ? proxy : `http://${proxy}`;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
}
