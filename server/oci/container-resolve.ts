import { CriError, quote } from '#base/errors.ts';
import { ownedByDefault, resolveCdi } from './cdi.ts';
import { type ContainerSpecInput, capabilitiesOf, idMapsOf, type ResolvedContainer, SECURITY } from './container-input.ts';
import { workingDirectory } from './container-process.ts';
import { hostDevices, ownedBy, type ResolvedDevice, resolveDevices } from './devices.ts';
import { hostId, hostRoot, type IdMaps } from './id-mapping.ts';
import { resolveMounts } from './mounts.ts';
import { ensureDirectory, ensureVolumes, replaceEtcFile } from './rootfs.ts';
import { loadSeccompProfile, seccompChoice } from './seccomp.ts';
import type { SeccompProfile } from './spec.ts';
import { type ResolvedUser, resolveUser } from './user.ts';

/**
 * Looks up what of a request lies outside it, then makes in the rootfs what the container needs there: its working
 * directory, the image's volumes, a passwd line for its user. Makes missing mount sources on the host.
 * @throws {CriError} naming the field.
 */
export async function resolveContainer(input: ContainerSpecInput): Promise<ResolvedContainer> {
  const { config, image, rootfs } = input;
  const security = config.linux?.security_context ?? null;
  const allDevices = security?.privileged === true && !input.privilegedWithoutHostDevices;
  const [user, mounts, requestedDevices, nodeDevices, seccomp, cdi] = await Promise.all([
    resolveUser(rootfs, image.user, security),
    resolveMounts(config.mounts, input.features, input.imageSources),
    resolveDevices(config.devices),
    allDevices ? hostDevices() : [],
    loadSeccomp(input),
    resolveCdi(config, input.cdiSpecDirs),
  ]);
  const [netDevice] = Object.keys(cdi.netDevices);
  if (netDevice !== undefined) checkNetDevice(input, netDevice);
  const owned = input.deviceOwnership ? requestedDevices.map((device) => ownedBy(device, security)) : requestedDevices;
  const devices = mergeDevices([nodeDevices, owned, cdi.devices.map((device) => ownedByDefault(device, user))]);
  const idMaps = idMapsOf(input);
  if (idMaps !== undefined) checkMapped(user, cdi.additionalGids, idMaps);
  const owner = hostRoot(idMaps);
  ensureDirectory(rootfs, workingDirectory(config, image), owner);
  const volumes = ensureVolumes(rootfs, image.volumes, owner);
  if (user.newPasswd !== undefined) replaceEtcFile(rootfs, 'passwd', user.newPasswd, owner);
  if (user.newGroup !== undefined) replaceEtcFile(rootfs, 'group', user.newGroup, owner);
  return { user, mounts, devices, seccomp, volumes, cdi };
}

/** A runtime that does not know them would pass over them. @throws {CriError} `invalidArgument`. */
function checkNetDevice({ features, sandbox }: ContainerSpecInput, name: string): void {
  const why = !features.netDevices
    ? 'are not supported by the runtime handler'
    : sandbox.namespaces.network === undefined
      ? "are not for a pod on the node's network"
      : undefined;
  if (why !== undefined) throw new CriError('invalidArgument', `config.CDI_devices: network devices, such as ${quote(name)}, ${why}`);
}

/** @throws {CriError} `invalidArgument` for a user or group that the pod's user namespace does not have. */
function checkMapped({ uid, gid, additionalGids }: ResolvedUser, deviceGids: readonly number[], { uids, gids }: IdMaps): void {
  if (hostId(uids, uid) === undefined) throw new CriError('invalidArgument', `${SECURITY}.run_as_user: ${uid} is not mapped in the pod's user namespace`);
  const group = [gid, ...additionalGids].find((id) => hostId(gids, id) === undefined);
  if (group !== undefined) throw new CriError('invalidArgument', `${SECURITY}: group ${group} is not mapped in the pod's user namespace`);
  const device = deviceGids.find((id) => hostId(gids, id) === undefined);
  if (device !== undefined) throw new CriError('invalidArgument', `config.CDI_devices: group ${device} of a device is not mapped in the pod's user namespace`);
}

/** What is named later takes the place of what has the same path. */
function mergeDevices(lists: readonly (readonly ResolvedDevice[])[]): readonly ResolvedDevice[] {
  return [...new Map(lists.flat().map((device) => [device.device.path, device])).values()];
}

async function loadSeccomp(input: ContainerSpecInput): Promise<SeccompProfile | undefined> {
  const security = input.config.linux?.security_context ?? null;
  if (security?.privileged === true) return undefined;
  return await loadSeccompProfile({
    choice: seccompChoice(SECURITY, security),
    capabilities: capabilitiesOf(input).sets.bounding,
    host: input.host,
    defaultProfile: input.defaults.seccompProfile,
  });
}
