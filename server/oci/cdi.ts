import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, describeError, isErrno, quote } from '#base/errors.ts';
import type { ContainerConfig } from '../../proto/cri.ts';
import { type CdiContainerEdits, type CdiDeviceNode, type CdiMount, type CdiNetDevice, type CdiSpec, parseCdiSpec, parseDeviceName } from './cdi-spec.ts';
import { ociDevice, type ResolvedDevice } from './devices.ts';
import type { HookStage, OciHook, OciMount, OciNetDevices } from './spec.ts';

/** A device node of a CDI file; one that names no owner belongs to the container's user. */
export interface CdiDevice extends ResolvedDevice {
  readonly hasUid: boolean;
  readonly hasGid: boolean;
}

/** What the CDI devices of a container change in it. */
export interface CdiEdits {
  /** `NAME=value`, above all others. */
  readonly env: readonly string[];
  readonly devices: readonly CdiDevice[];
  readonly mounts: readonly OciMount[];
  readonly hooks: readonly { readonly stage: HookStage; readonly hook: OciHook }[];
  readonly additionalGids: readonly number[];
  readonly intelRdt: Readonly<Record<string, unknown>> | undefined;
  /** As config.json has them: interfaces of the node and their names in the container. */
  readonly netDevices: OciNetDevices;
}

type CdiRequest = Pick<ContainerConfig, 'CDI_devices' | 'annotations'>;

/** How device plugins name CDI devices to a kubelet that does not know the field. */
const ANNOTATION = 'cdi.k8s.io/';

/** A device that was asked for, and by which field. */
interface Asked {
  readonly field: string;
  readonly name: string;
}

function askedDevices({ CDI_devices, annotations }: CdiRequest): readonly Asked[] {
  const byField = CDI_devices.map(({ name }, index) => ({ field: `config.CDI_devices[${index}].name`, name }));
  const byAnnotation = Object.entries(annotations)
    .filter(([key]) => key.startsWith(ANNOTATION))
    .flatMap(([key, value]) => value.split(',').map((name) => ({ field: `config.annotations[${key}]`, name: name.trim() })));
  // The kubelet may send a device both ways.
  return [...new Map([...byField, ...byAnnotation].toReversed().map((asked) => [asked.name, asked])).values()].toReversed();
}

/** @throws {CriError} `invalidArgument` naming the field. */
export function validateCdi(config: CdiRequest): void {
  for (const { field, name } of askedDevices(config)) {
    if (parseDeviceName(name) === undefined) throw new CriError('invalidArgument', `${field}: ${quote(name)} is not vendor/class=name`);
  }
}

/**
 * What the request's CDI devices stand for, read from the files as they are now: device plugins write theirs any time.
 * @param dirs the later one wins.
 * @throws {CriError} `invalidArgument` naming the field and the device that no file, or more than one, describes.
 */
export async function resolveCdi(config: CdiRequest, dirs: readonly string[]): Promise<CdiEdits> {
  const asked = askedDevices(config);
  if (asked.length === 0) return { env: [], devices: [], mounts: [], hooks: [], additionalGids: [], intelRdt: undefined, netDevices: {} };
  const { levels, problems } = await readSpecs(dirs);
  const used: CdiSpec[] = [];
  const edits: CdiContainerEdits[] = [];
  for (const { field, name } of asked) {
    const spec = findDevice(levels, name, (what) => new CriError('invalidArgument', [`${field}: ${quote(name)} ${what}`, ...problems].join('; ')));
    if (!used.includes(spec)) edits.push(spec.edits);
    used.push(spec);
    edits.push(spec.devices.get(parseDeviceName(name)?.name ?? '') ?? {});
  }
  const all = <K extends 'env' | 'deviceNodes' | 'mounts' | 'hooks' | 'additionalGids' | 'netDevices'>(key: K) =>
    edits.flatMap((edit) => (edit[key] ?? []) as never[]);
  const nodes: readonly CdiDeviceNode[] = all('deviceNodes');
  const hooks: NonNullable<CdiContainerEdits['hooks']> = all('hooks');
  const mounts: readonly CdiMount[] = all('mounts');
  return {
    env: all('env'),
    devices: await Promise.all(nodes.map(toDevice)),
    mounts: mounts.map(toMount),
    hooks: hooks.map(({ hookName, ...hook }) => ({ stage: hookName as HookStage, hook })),
    additionalGids: (all('additionalGids') as number[]).filter((gid) => gid > 0),
    intelRdt: edits.findLast(({ intelRdt }) => intelRdt !== undefined)?.intelRdt,
    netDevices: Object.fromEntries((all('netDevices') as CdiNetDevice[]).map(({ hostInterfaceName, name }) => [hostInterfaceName, { name }])),
  };
}

/** A device node without an owner in its file belongs to the container's user, who is to use it. Source: CDI's own library. */
export function ownedByDefault({ hasUid, hasGid, ...resolved }: CdiDevice, user: { readonly uid: number; readonly gid: number }): ResolvedDevice {
  const { device } = resolved;
  return {
    ...resolved,
    device: { ...device, uid: hasUid || user.uid === 0 ? device.uid : user.uid, gid: hasGid || user.gid === 0 ? device.gid : user.gid },
  };
}

/** The files of all directories, the strongest directory first; what cannot be read is told, and harms only who needs it. */
async function readSpecs(dirs: readonly string[]): Promise<{ readonly levels: readonly (readonly CdiSpec[])[]; readonly problems: readonly string[] }> {
  const problems: string[] = [];
  const levels = await Promise.all(
    dirs.toReversed().map(async (dir) => {
      const names = await readdir(dir).catch((err: unknown) => {
        if (!isErrno(err, 'ENOENT', 'ENOTDIR')) problems.push(describeError(err));
        return [];
      });
      const specs: CdiSpec[] = [];
      for (const name of names.filter((file) => /\.(json|ya?ml)$/.test(file)).sort()) {
        const path = join(dir, name);
        try {
          specs.push(parseCdiSpec(path, await readFile(path, 'utf8')));
        } catch (err) {
          problems.push(describeError(err));
        }
      }
      return specs;
    }),
  );
  return { levels, problems };
}

function findDevice(levels: readonly (readonly CdiSpec[])[], asked: string, refused: (what: string) => CriError): CdiSpec {
  const { kind = '', name = '' } = parseDeviceName(asked) ?? {};
  for (const level of levels) {
    const found = level.filter((spec) => spec.kind === kind && spec.devices.has(name));
    if (found.length > 1) throw refused(`is described by ${found.map(({ path }) => path).join(' and ')}, which contradict each other`);
    if (found[0] !== undefined) return found[0];
  }
  throw refused('is not described by any CDI file');
}

async function toDevice(node: CdiDeviceNode): Promise<CdiDevice> {
  const hostPath = node.hostPath ?? node.path;
  const complete = node.type !== undefined && node.major !== undefined && node.minor !== undefined;
  const stats = await stat(hostPath).catch((err: unknown) => {
    if (complete) return undefined;
    throw new CriError('invalidArgument', `CDI device node ${quote(hostPath)}: ${describeError(err)}`, { cause: err });
  });
  if (stats !== undefined && !stats.isCharacterDevice() && !stats.isBlockDevice() && !complete)
    throw new CriError('invalidArgument', `CDI device node ${quote(hostPath)} is no device`);
  const found = stats === undefined ? undefined : ociDevice(node.path, stats);
  return {
    hostPath,
    access: node.permissions === undefined || node.permissions === '' ? 'rwm' : node.permissions,
    hasUid: node.uid !== undefined,
    hasGid: node.gid !== undefined,
    device: {
      path: node.path,
      type: node.type === undefined || node.type === '' ? (found?.type ?? 'c') : node.type === 'b' ? 'b' : 'c',
      major: node.major ?? found?.major ?? 0,
      minor: node.minor ?? found?.minor ?? 0,
      fileMode: node.fileMode ?? found?.fileMode ?? 0o666,
      uid: node.uid ?? found?.uid ?? 0,
      gid: node.gid ?? found?.gid ?? 0,
    },
  };
}

function toMount({ hostPath, containerPath, type = 'bind', options = [] }: CdiMount): OciMount {
  const isBind = type === 'bind' || type === '';
  const hasBind = options.some((option) => option === 'bind' || option === 'rbind');
  return { destination: containerPath, source: hostPath, type: isBind ? 'bind' : type, options: isBind && !hasBind ? ['rbind', ...options] : options };
}
