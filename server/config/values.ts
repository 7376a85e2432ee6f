import { isIP } from 'node:net';
import { quote } from '#base/errors.ts';
import { CAPABILITIES } from '../oci/capabilities.ts';
import { isSysctlValue, sysctlNamespace, sysctlPath } from '../oci/sysctl.ts';

/** What may stand for a key: read from text, written back as text. */
export interface ValueType<T> {
  /** A list may be written `a, b` or as repeated `key[] = a`; any other key has one item. */
  readonly list: boolean;
  /** @throws {BadValue} saying what is wrong with which item. */
  readonly parse: (items: readonly string[]) => T;
  readonly format: (value: T) => readonly string[];
}

/** Why a value is refused: the end of the sentence "[section] key: ". */
export class BadValue extends Error {
  override readonly name = 'BadValue';
}

const refuse = (value: string, why: string): never => {
  throw new BadValue(`${quote(value)} ${why}`);
};

function scalar<T>(parse: (text: string) => T, format: (value: T) => string = String): ValueType<T> {
  return { list: false, parse: ([text = '']) => parse(text), format: (value) => [format(value)] };
}

function listOf(item: ValueType<string>): ValueType<readonly string[]> {
  return { list: true, parse: (items) => items.map((text) => item.parse([text])), format: (value) => value };
}

export function oneOf<const T extends string>(...allowed: readonly T[]): ValueType<T> {
  return scalar((text) => allowed.find((value) => value === text) ?? refuse(text, `is not one of ${allowed.join(', ')}`));
}

export const bool: ValueType<boolean> = scalar((text) => {
  if (text === 'true' || text === 'false') return text === 'true';
  return refuse(text, 'is neither true nor false');
});

export function integer(min: number, max: number): ValueType<number> {
  return scalar((text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : Number.NaN;
    return value >= min && value <= max ? value : refuse(text, `is not a whole number from ${min} to ${max}`);
  });
}

const units: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** Milliseconds, from `240s`, `4m`, `1h30m`, `500ms`, or plain seconds. */
export function duration(minMs: number, maxMs: number): ValueType<number> {
  return scalar((text) => {
    const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
    const plain = /^\d+$/.test(text);
    if (!plain && (parts.length === 0 || parts.map(([part]) => part).join('') !== text)) return refuse(text, 'is not a duration such as 240s, 4m or 1h30m');
    const ms = plain ? Number(text) * 1_000 : Math.round(parts.reduce((sum, [, count, unit = '']) => sum + Number(count) * (units[unit] ?? 0), 0));
    return ms >= minMs && ms <= maxMs ? ms : refuse(text, `is not between ${formatDuration(minMs)} and ${formatDuration(maxMs)}`);
  }, formatDuration);
}

function formatDuration(ms: number): string {
  if (ms % 1_000 !== 0) return `${ms}ms`;
  return ms % 60_000 === 0 && ms >= 600_000 ? `${ms / 60_000}m` : `${ms / 1_000}s`;
}

const KIB = 1_024;
const sizes: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KIB: KIB,
  MIB: KIB ** 2,
  GIB: KIB ** 3,
  K: KIB,
  M: KIB ** 2,
  G: KIB ** 3,
};

/** Bytes, from `16MiB`, `80M` (binary, as the kernel has it), `16MB` (decimal) or a plain number. */
export function size(minBytes: number, maxBytes: number): ValueType<number> {
  return scalar((text) => {
    const [, count = '', unit = ''] = /^(\d+)\s*([A-Za-z]*)$/.exec(text) ?? [];
    const factor = sizes[unit.toUpperCase()];
    if (count === '' || factor === undefined) return refuse(text, 'is not a size such as 16MiB');
    const bytes = Number(count) * factor;
    return bytes >= minBytes && bytes <= maxBytes ? bytes : refuse(text, `is not between ${formatSize(minBytes)} and ${formatSize(maxBytes)}`);
  }, formatSize);
}

function formatSize(bytes: number): string {
  if (bytes % KIB ** 2 === 0 && bytes > 0) return `${bytes / KIB ** 2}MiB`;
  return bytes % KIB === 0 && bytes > 0 ? `${bytes / KIB}KiB` : String(bytes);
}

const normalPath = (text: string): string => {
  if (!text.startsWith('/')) return refuse(text, 'is not an absolute path');
  if (text.split('/').includes('..')) return refuse(text, 'has a ".." in it');
  if (text.includes('\0')) return refuse(text, 'has a NUL byte in it');
  return text.length > 1 ? text.replace(/\/+/g, '/').replace(/\/$/, '') : text;
};

export const path: ValueType<string> = scalar(normalPath);

export const pathOrNothing: ValueType<string> = scalar((text) => (text === '' ? '' : normalPath(text)));

export const paths: ValueType<readonly string[]> = {
  list: true,
  format: (value) => value,
  parse: (items) => (items.length === 0 ? refuse('', 'names no directory') : items.map(normalPath)),
};

/** `sun_path` of a unix socket's address has 108 bytes, one of them for the NUL at its end; see unix(7). */
const SOCKET_PATH_BYTES = 107;

/** The path, which may come as a `unix://` URL, as the kubelet and crictl have it. */
export function socketPath(text: string): string {
  const found = normalPath(text.startsWith('unix://') ? text.slice('unix://'.length) : text);
  const bytes = Buffer.byteLength(found);
  return bytes <= SOCKET_PATH_BYTES ? found : refuse(found, `has ${bytes} bytes; the path of a socket may have ${SOCKET_PATH_BYTES}`);
}

export const socket: ValueType<string> = scalar(socketPath);

export const socketOrNothing: ValueType<string> = scalar((text) => (text === '' ? '' : socketPath(text)));

/** An address to listen on; IPv6 without brackets. */
export const ipAddress: ValueType<string> = scalar((address) => (isIP(address) === 0 ? refuse(address, 'is not an IP address') : address));

export const text: ValueType<string> = scalar((value) => (/[\0\n]/.test(value) ? refuse(value, 'has a NUL or a line break in it') : value));

export const texts: ValueType<readonly string[]> = listOf(text);

/** Words parted by blanks, such as a command line. */
export const words: ValueType<readonly string[]> = scalar<readonly string[]>(
  (line) => line.split(/\s+/).filter((word) => word !== ''),
  (value) => value.join(' '),
);

/** `NAME=value` items for an environment. */
export const environment: ValueType<readonly string[]> = listOf(scalar((item) => (/^[^=\0]+=[^\0]*$/.test(item) ? item : refuse(item, 'is not NAME=value'))));

/** `name=value` items, such as `net.ipv4.ip_unprivileged_port_start=0`: only what belongs to a namespace can be set for a pod. */
export const sysctls: ValueType<Readonly<Record<string, string>>> = {
  list: true,
  parse: (items) =>
    Object.fromEntries(
      items.map((item) => {
        const [, name = '', value = ''] = /^\s*([^\s=]+)\s*=\s*(\S.*)$/.exec(item) ?? refuse(item, 'is not name=value');
        const path = sysctlPath(name);
        if (path === undefined || sysctlNamespace(name) === undefined) return refuse(item, 'is no sysctl of a namespace');
        if (!isSysctlValue(value)) return refuse(item, 'is not one line of text');
        // One spelling for each; only with slashes can a part have a dot of its own.
        return [path.includes('.') ? path : path.replaceAll('/', '.'), value];
      }),
    ),
  format: (value) => Object.entries(value).map(([name, setting]) => `${name}=${setting}`),
};

/** A resource limit as the OCI spec has it. */
export interface Ulimit {
  /** `RLIMIT_NOFILE` and its like. */
  readonly type: string;
  readonly soft: number;
  readonly hard: number;
}

/** Source: setrlimit(2). */
const RLIMITS = new Set('as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack'.split(' '));

/** `name=soft:hard` or `name=both` items, as docker and its followers have them. */
export const ulimits: ValueType<readonly Ulimit[]> = {
  list: true,
  parse: (items) =>
    items.map((item) => {
      const [, name = '', soft = '', hard = soft] = /^([a-z]+)=(\d+)(?::(\d+))?$/.exec(item) ?? refuse(item, 'is not name=soft:hard');
      if (!RLIMITS.has(name)) refuse(item, `is none of ${[...RLIMITS].join(', ')}`);
      if (Number(soft) > Number(hard)) refuse(item, 'has a soft limit above the hard one');
      if (!Number.isSafeInteger(Number(hard))) refuse(item, 'is too large');
      return { type: `RLIMIT_${name.toUpperCase()}`, soft: Number(soft), hard: Number(hard) };
    }),
  format: (value) => value.map(({ type, soft, hard }) => `${type.slice('RLIMIT_'.length).toLowerCase()}=${soft}:${hard}`),
};

/** Capabilities with or without `CAP_`, in any case; kept with it, upper case. */
export const capabilities: ValueType<readonly string[]> = {
  list: true,
  parse: (items) => [
    ...new Set(
      items.map((item) => {
        const name = `CAP_${item.toUpperCase().replace(/^CAP_/, '')}`;
        return CAPABILITIES.find((known) => known === name) ?? refuse(item, 'is not a capability');
      }),
    ),
  ],
  format: (value) => value.map((name) => name.replace(/^CAP_/, '')),
};

/** A cgroup's path, absolute or relative to the daemon's own, or nothing. */
export const cgroupOrNothing: ValueType<string> = scalar((value) => {
  if (value === '') return '';
  if (value.startsWith('/')) return value === '/' ? refuse(value, 'is the root cgroup') : normalPath(value);
  return normalPath(`/${value}`).slice(1);
});
