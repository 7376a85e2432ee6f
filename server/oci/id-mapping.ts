import { CriError, invalidField } from '#base/errors.ts';
import { type IDMapping, NamespaceMode, type NamespaceOption } from '../../proto/cri.ts';
import type { OciIdMapping } from './spec.ts';

/** What ids of a user namespace are outside of it. */
export interface IdMaps {
  readonly uids: readonly IDMapping[];
  readonly gids: readonly IDMapping[];
}

/** Ids are 32 bits wide, and the last one means "none". */
const MAX_IDS = 0xffff_ffff;

/** The mappings of a pod with a user namespace of its own; `undefined` for one in the node's. */
export function userNamespaceOf(options: NamespaceOption | null | undefined): IdMaps | undefined {
  const asked = options?.userns_options;
  return asked?.mode === NamespaceMode.POD ? { uids: asked.uids, gids: asked.gids } : undefined;
}

/**
 * A pod's user namespace: exactly one range of ids, which begins at 0 inside. The kubelet sends no other, and both peers
 * refuse others. @throws {CriError} `invalidArgument` naming the field.
 */
export function validateUserNamespace(field: string, { userns_options }: NamespaceOption): void {
  if (userns_options === null) return;
  const { mode, uids, gids } = userns_options;
  if (mode !== NamespaceMode.POD && mode !== NamespaceMode.NODE) {
    const name = Object.entries(NamespaceMode).find(([, value]) => value === mode)?.[0] ?? mode;
    throw invalidField(`${field}.mode`, name, 'is no mode that it can have');
  }
  if (mode === NamespaceMode.NODE) {
    if (uids.length + gids.length > 0) throw invalidField(`${field}.mode`, 'NODE', 'stands beside mappings');
    return;
  }
  for (const [key, mappings] of [
    ['uids', uids],
    ['gids', gids],
  ] as const) {
    if (mappings.length !== 1) throw invalidField(`${field}.${key}`, mappings.length, 'mappings, where exactly one is possible');
    validateMappings(`${field}.${key}`, mappings);
    if (mappings[0]?.container_id !== 0) throw invalidField(`${field}.${key}[0].container_id`, mappings[0]?.container_id, 'leaves id 0 without a mapping');
  }
}

/** A container lives in its pod's user namespace: it may say nothing, or the same. @throws {CriError} naming the field. */
export function validateContainerUserNamespace(field: string, options: NamespaceOption, pod: NamespaceOption | null): void {
  validateUserNamespace(field, options);
  if (options.userns_options === null) return;
  const own = userNamespaceOf(options);
  const pods = userNamespaceOf(pod);
  if ((own === undefined) !== (pods === undefined)) throw invalidField(`${field}.mode`, own === undefined ? 'NODE' : 'POD', "is not the pod's");
  if (own !== undefined && pods !== undefined && !equalMaps(own, pods)) throw new CriError('invalidArgument', `${field}: has other mappings than the pod`);
}

/** @throws {CriError} `invalidArgument` naming the field, for a range that is empty or leaves the 32 bits of an id. */
export function validateMappings(field: string, mappings: readonly IDMapping[]): void {
  for (const [index, { host_id, container_id, length }] of mappings.entries()) {
    const at = `${field}[${index}]`;
    if (length === 0) throw invalidField(`${at}.length`, length, 'maps nothing');
    if (host_id + length > MAX_IDS) throw invalidField(`${at}.host_id`, host_id, `with ${length} ids goes past the last id there is`);
    if (container_id + length > MAX_IDS) throw invalidField(`${at}.container_id`, container_id, `with ${length} ids goes past the last id there is`);
  }
}

/** The id outside; `undefined` for one that is not mapped. */
export function hostId(mappings: readonly IDMapping[], id: number): number | undefined {
  const range = mappings.find(({ container_id, length }) => id >= container_id && id < container_id + length);
  return range === undefined ? undefined : range.host_id + (id - range.container_id);
}

/** Who is root in there, seen from outside. */
export function hostRoot(maps: IdMaps | undefined): { readonly uid: number; readonly gid: number } {
  return { uid: hostId(maps?.uids ?? [], 0) ?? 0, gid: hostId(maps?.gids ?? [], 0) ?? 0 };
}

/** As config.json has them. */
export function toOciMappings(mappings: readonly IDMapping[]): readonly OciIdMapping[] {
  return mappings.map(({ host_id, container_id, length }) => ({ hostID: host_id, containerID: container_id, size: length }));
}

/** The lines of /proc/PID/uid_map; see user_namespaces(7). */
export function formatIdMap(mappings: readonly IDMapping[]): string {
  return mappings.map(({ container_id, host_id, length }) => `${container_id} ${host_id} ${length}\n`).join('');
}

function equalMaps(a: IdMaps, b: IdMaps): boolean {
  return formatIdMap(a.uids) === formatIdMap(b.uids) && formatIdMap(a.gids) === formatIdMap(b.gids);
}
