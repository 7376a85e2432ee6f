import { parse as parseYaml } from 'yaml';
import { CriError, describeError, quote } from '#base/errors.ts';

/** What one device, or each device of a file, changes in a container. Source: CDI specification 1.1, SPEC.md. */
export interface CdiContainerEdits {
  readonly env?: readonly string[];
  readonly deviceNodes?: readonly CdiDeviceNode[];
  readonly mounts?: readonly CdiMount[];
  readonly hooks?: readonly CdiHook[];
  readonly additionalGids?: readonly number[];
  readonly intelRdt?: Readonly<Record<string, unknown>>;
  readonly netDevices?: readonly CdiNetDevice[];
}

/** An interface of the node that goes into the container's network namespace. */
export interface CdiNetDevice {
  readonly hostInterfaceName: string;
  /** Its name there. */
  readonly name: string;
}

export interface CdiDeviceNode {
  readonly path: string;
  readonly hostPath?: string;
  /** Also `u`, which is `c`, and `p` for a fifo. */
  readonly type?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly fileMode?: number;
  /** Of the letters `rwm`; all of them when absent. */
  readonly permissions?: string;
  readonly uid?: number;
  readonly gid?: number;
}

export interface CdiMount {
  readonly hostPath: string;
  readonly containerPath: string;
  /** Default `bind`. */
  readonly type?: string;
  readonly options?: readonly string[];
}

export interface CdiHook {
  readonly hookName: string;
  readonly path: string;
  readonly args?: readonly string[];
  readonly env?: readonly string[];
  /** Seconds. */
  readonly timeout?: number;
}

/** One file. */
export interface CdiSpec {
  readonly path: string;
  /** `vendor/class`. */
  readonly kind: string;
  readonly devices: ReadonlyMap<string, CdiContainerEdits>;
  /** Made once for all devices of this file. */
  readonly edits: CdiContainerEdits;
}

/** In the order of their release. */
const VERSIONS = ['0.1.0', '0.2.0', '0.3.0', '0.4.0', '0.5.0', '0.6.0', '0.7.0', '0.8.0', '1.0.0', '1.1.0'];

/** A shape: each key with the shape of its value. */
type Shape = 'string' | 'number' | 'object' | readonly [Shape] | { readonly [key: string]: Shape };

const HOOK: Shape = { hookName: 'string', path: 'string', args: ['string'], env: ['string'], timeout: 'number' };
const EDITS: Shape = {
  env: ['string'],
  deviceNodes: [
    {
      path: 'string',
      hostPath: 'string',
      type: 'string',
      major: 'number',
      minor: 'number',
      fileMode: 'number',
      permissions: 'string',
      uid: 'number',
      gid: 'number',
    },
  ],
  mounts: [{ hostPath: 'string', containerPath: 'string', type: 'string', options: ['string'] }],
  hooks: [HOOK],
  additionalGids: ['number'],
  intelRdt: 'object',
  netDevices: [{ hostInterfaceName: 'string', name: 'string' }],
};
const SPEC: Shape = {
  cdiVersion: 'string',
  kind: 'string',
  annotations: 'object',
  devices: [{ name: 'string', annotations: 'object', containerEdits: EDITS }],
  containerEdits: EDITS,
};

const HOOK_NAMES = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'];

interface RawSpec {
  readonly cdiVersion?: string;
  readonly kind?: string;
  readonly annotations?: unknown;
  readonly devices?: readonly { readonly name?: string; readonly annotations?: unknown; readonly containerEdits?: CdiContainerEdits }[];
  readonly containerEdits?: CdiContainerEdits;
}

/**
 * Reads one CDI file, JSON or YAML. A key that this version does not know is an error: what it asks for would be missing.
 * @throws {CriError} `invalidArgument` with the path and what is wrong in it.
 */
export function parseCdiSpec(path: string, text: string): CdiSpec {
  const bad = (what: string): CriError => new CriError('invalidArgument', `${path}: ${what}`);
  let raw: RawSpec;
  try {
    raw = (path.endsWith('.json') ? JSON.parse(text) : parseYaml(text)) as RawSpec;
  } catch (err) {
    throw bad(`cannot be parsed: ${describeError(err)}`);
  }
  const problem = mismatch(raw, SPEC, '');
  if (problem !== undefined) throw bad(problem);
  const { cdiVersion = '', kind = '', devices = [], containerEdits = {} } = raw;
  const version = cdiVersion.replace(/^v/, '');
  if (!VERSIONS.includes(version)) throw bad(`cdiVersion: ${quote(cdiVersion)} is not known; known are ${VERSIONS[0]} to ${VERSIONS.at(-1)}`);
  if (!isKind(kind)) throw bad(`kind: ${quote(kind)} is not vendor/class`);
  if (devices.length === 0) throw bad('devices: is empty');
  const byName = new Map<string, CdiContainerEdits>();
  for (const [index, { name = '', containerEdits: edits = {} }] of devices.entries()) {
    if (!isDeviceName(name)) throw bad(`devices[${index}].name: ${quote(name)} is no name of a device`);
    if (byName.has(name)) throw bad(`devices[${index}].name: ${quote(name)} is there twice`);
    checkEdits(`devices[${index}].containerEdits`, edits, bad);
    byName.set(name, edits);
  }
  checkEdits('containerEdits', containerEdits, bad);
  const [needed, why] = neededVersion(raw);
  if (VERSIONS.indexOf(version) < VERSIONS.indexOf(needed)) throw bad(`${why} needs cdiVersion ${needed}, which is ${cdiVersion}`);
  return { path, kind, devices: byName, edits: containerEdits };
}

/** `vendor/class=name` taken apart; `undefined` for what is none. */
export function parseDeviceName(text: string): { readonly kind: string; readonly name: string } | undefined {
  const [kind = '', name = '', more] = text.split('=');
  return more === undefined && isKind(kind) && isDeviceName(name) ? { kind, name } : undefined;
}

function isKind(text: string): boolean {
  return /^[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\/[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?$/.test(text);
}

function isDeviceName(text: string): boolean {
  return /^[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?$/.test(text);
}

/** Source: dev_valid_name() in the kernel's net/core/dev.c. */
function isInterfaceName(text: string): boolean {
  return /^[^\s/:]{1,15}$/.test(text) && text !== '.' && text !== '..';
}

function checkEdits(field: string, edits: CdiContainerEdits, bad: (what: string) => CriError): void {
  for (const [index, entry] of (edits.env ?? []).entries()) if (!/^[^=\0]+=[^\0]*$/.test(entry)) throw bad(`${field}.env[${index}]: is not NAME=value`);
  for (const [index, { path = '', hostPath = '/', permissions = '', type = '' }] of (edits.deviceNodes ?? []).entries()) {
    const at = `${field}.deviceNodes[${index}]`;
    if (!path.startsWith('/')) throw bad(`${at}.path: ${quote(path)} is no absolute path`);
    if (!hostPath.startsWith('/')) throw bad(`${at}.hostPath: ${quote(hostPath)} is no absolute path`);
    if (!/^[rwm]*$/.test(permissions)) throw bad(`${at}.permissions: ${quote(permissions)} has other letters than r, w and m`);
    if (!['', 'b', 'c', 'u'].includes(type)) throw bad(`${at}.type: ${quote(type)} is none of b, c and u`);
  }
  for (const [index, { hostPath = '', containerPath = '' }] of (edits.mounts ?? []).entries()) {
    if (hostPath === '') throw bad(`${field}.mounts[${index}].hostPath: is empty`);
    if (!containerPath.startsWith('/')) throw bad(`${field}.mounts[${index}].containerPath: ${quote(containerPath)} is no absolute path`);
  }
  for (const [index, device] of (edits.netDevices ?? []).entries()) {
    for (const key of ['hostInterfaceName', 'name'] as const) {
      if (!isInterfaceName(device[key] ?? '')) throw bad(`${field}.netDevices[${index}].${key}: ${quote(device[key] ?? '')} is no name of an interface`);
    }
  }
  for (const [index, { hookName = '', path = '' }] of (edits.hooks ?? []).entries()) {
    if (!HOOK_NAMES.includes(hookName)) throw bad(`${field}.hooks[${index}].hookName: ${quote(hookName)} is none of ${HOOK_NAMES.join(', ')}`);
    if (!path.startsWith('/')) throw bad(`${field}.hooks[${index}].path: ${quote(path)} is no absolute path`);
  }
}

/** The lowest version that has all that a file uses. Source: CDI's SPEC.md, version history. */
function neededVersion({ kind = '', annotations, devices = [], containerEdits = {} }: RawSpec): readonly [string, string] {
  const all = [containerEdits, ...devices.map((device) => device.containerEdits ?? {})];
  if (all.some(({ netDevices, intelRdt = {} }) => netDevices !== undefined || 'schemata' in intelRdt || 'enableMonitoring' in intelRdt))
    return ['1.1.0', 'netDevices, or schemata or enableMonitoring of intelRdt,'];
  if (all.some(({ additionalGids, intelRdt }) => additionalGids !== undefined || intelRdt !== undefined)) return ['0.7.0', 'additionalGids or intelRdt'];
  if (annotations !== undefined || devices.some((device) => device.annotations !== undefined)) return ['0.6.0', 'annotations'];
  if (kind.split('/')[1]?.includes('.') === true) return ['0.6.0', 'a dot in the class'];
  if (devices.some(({ name = '' }) => /^\d/.test(name))) return ['0.5.0', 'a name that begins with a digit'];
  if (all.some(({ deviceNodes = [] }) => deviceNodes.some(({ hostPath }) => hostPath !== undefined))) return ['0.5.0', 'deviceNodes.hostPath'];
  if (all.some(({ mounts = [] }) => mounts.some(({ type }) => type !== undefined))) return ['0.4.0', 'mounts.type'];
  return ['0.1.0', ''];
}

/** What does not have its shape, in words. */
function mismatch(value: unknown, shape: Shape, path: string): string | undefined {
  const where = path === '' ? 'the file' : path;
  if (typeof shape === 'string') {
    const fits = shape === 'object' ? typeof value === 'object' && value !== null : typeof value === shape;
    return fits ? undefined : `${where}: is no ${shape}`;
  }
  if (Array.isArray(shape)) {
    if (!Array.isArray(value)) return `${where}: is no list`;
    return value.map((item, index) => mismatch(item, shape[0] as Shape, `${path}[${index}]`)).find((found) => found !== undefined);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return `${where}: is no table`;
  for (const [key, item] of Object.entries(value)) {
    const inner = (shape as Readonly<Record<string, Shape>>)[key];
    const at = path === '' ? key : `${path}.${key}`;
    if (inner === undefined) return `${at}: is not known`;
    if (item === null) continue; // YAML's empty value
    const found = mismatch(item, inner, at);
    if (found !== undefined) return found;
  }
  return undefined;
}
