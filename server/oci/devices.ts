import type { Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, describeError, invalidField, isErrno } from '#base/errors.ts';
import type { Device, LinuxContainerSecurityContext } from '../../proto/cri.ts';
import type { OciDevice, OciDeviceRule } from './spec.ts';

/** A device node to make in the container, and what its cgroup lets it do. */
export interface ResolvedDevice {
  readonly device: OciDevice;
  /** Of the letters `rwm`. */
  readonly access: string;
  /** Where the node is on the host. */
  readonly hostPath: string;
}

/** Of one `devices` entry that is a directory, or of the host's /dev. */
const MAX_DEVICES = 4096;

/** Directories and files of /dev that a container has of its own, or that are no devices for it. */
const SKIPPED_IN_DEV: readonly string[] = ['pts', 'shm', 'fd', 'mqueue', 'hugepages', 'console', 'ptmx', '.udev', '.lxc', '.lxd-mounts'];

/** @throws {CriError} `invalidArgument` naming the field. */
export function validateDevices(devices: readonly Device[]): void {
  for (const [index, { host_path, container_path, permissions }] of devices.entries()) {
    const field = `config.devices[${index}]`;
    if (!host_path.startsWith('/') || host_path.includes('\0')) throw invalidField(`${field}.host_path`, host_path, 'is no absolute path');
    if (!container_path.startsWith('/') || container_path.includes('\0')) throw invalidField(`${field}.container_path`, container_path, 'is no absolute path');
    if (!/^(?!.*(.).*\1)[rwm]*$/.test(permissions)) throw invalidField(`${field}.permissions`, permissions, 'has other letters than r, w and m');
  }
}

/**
 * The device nodes behind the request's devices; a directory stands for all in it.
 * @throws {CriError} `invalidArgument` naming the field, when there is no such device.
 */
export async function resolveDevices(devices: readonly Device[]): Promise<readonly ResolvedDevice[]> {
  const found = await Promise.all(
    devices.map(async ({ host_path, container_path, permissions }, index) => {
      const field = `config.devices[${index}].host_path`;
      const access = permissions === '' ? 'rwm' : permissions;
      const stats = await statDevice(field, host_path);
      if (!stats.isDirectory()) return [toDevice(field, host_path, container_path, access, stats)];
      return await collect(host_path, container_path, access, []);
    }),
  );
  return found.flat();
}

/** Every device of the host, for a privileged container. @param dev the host's /dev. */
export async function hostDevices(dev = '/dev'): Promise<readonly ResolvedDevice[]> {
  return await collect(dev, '/dev', 'rwm', SKIPPED_IN_DEV);
}

/** Access for each of the nodes; everything else is denied by the caller's first rule. */
export function deviceRules(devices: readonly ResolvedDevice[]): readonly OciDeviceRule[] {
  return devices.map(({ device: { type, major, minor }, access }) => ({ allow: true, type, major, minor, access }));
}

async function collect(hostDir: string, containerDir: string, access: string, skip: readonly string[]): Promise<readonly ResolvedDevice[]> {
  const found: ResolvedDevice[] = [];
  const pending = [''];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    for (const entry of await readdir(join(hostDir, path), { withFileTypes: true }).catch(absent)) {
      if (path === '' && skip.includes(entry.name)) continue;
      const below = join(path, entry.name);
      if (entry.isDirectory()) pending.push(below);
      if (!entry.isCharacterDevice() && !entry.isBlockDevice()) continue;
      const stats = await stat(join(hostDir, below)).catch(absent);
      if (!Array.isArray(stats)) found.push({ device: ociDevice(join(containerDir, below), stats), access, hostPath: join(hostDir, below) });
      if (found.length > MAX_DEVICES) throw new CriError('invalidArgument', `${hostDir} holds more than ${MAX_DEVICES} devices`);
    }
  }
  return found.sort((a, b) => (a.device.path < b.device.path ? -1 : 1));
}

/** A device may be unplugged while its directory is read. */
function absent(err: unknown): never[] {
  if (isErrno(err, 'ENOENT')) return [];
  throw err;
}

async function statDevice(field: string, path: string): Promise<Stats> {
  try {
    return await stat(path);
  } catch (err) {
    throw new CriError('invalidArgument', `${invalidField(field, path, 'is no device').message}: ${describeError(err)}`, { cause: err });
  }
}

function toDevice(field: string, hostPath: string, containerPath: string, access: string, stats: Stats): ResolvedDevice {
  if (!stats.isCharacterDevice() && !stats.isBlockDevice()) throw invalidField(field, hostPath, 'is no device and no directory');
  return { device: ociDevice(containerPath, stats), access, hostPath };
}

/**
 * The device as the container's own user wants it: a program that is not root can open it then. As with CRI-O, the
 * request's user counts, not the image's. Source: the key device_ownership_from_security_context.
 */
export function ownedBy(resolved: ResolvedDevice, security: Pick<LinuxContainerSecurityContext, 'run_as_user' | 'run_as_group'> | null): ResolvedDevice {
  const uid = security?.run_as_user?.value;
  const gid = security?.run_as_group?.value;
  return {
    ...resolved,
    device: { ...resolved.device, ...(uid === undefined ? {} : { uid: Number(uid) }), ...(gid === undefined ? {} : { gid: Number(gid) }) },
  };
}

/** The node that `stats` tells of, at `path` in the container. */
export function ociDevice(path: string, stats: Stats): OciDevice {
  // Linux's dev_t as glibc splits it (gnu_dev_major, gnu_dev_minor); 32 bits hold every device of today.
  const { rdev, uid, gid } = stats;
  return {
    path,
    type: stats.isBlockDevice() ? 'b' : 'c',
    major: (rdev >>> 8) & 0xfff,
    minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00),
    fileMode: stats.mode & 0o777,
    uid,
    gid,
  };
}
