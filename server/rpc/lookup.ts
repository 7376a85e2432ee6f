import { CriError, quote } from '#base/errors.ts';
import type { ContainerRecord } from '../container/container.ts';
import type { Parts } from '../parts.ts';
import type { Records } from '../records.ts';
import type { SandboxRecord } from '../sandbox/sandbox.ts';

type Needs = Pick<Parts, 'sandboxes' | 'containers' | 'doomed'>;

interface Claimable {
  readonly id: SandboxRecord['id'];
  readonly claimed: boolean;
  readonly state: SandboxRecord['state'] | ContainerRecord['state'];
}

/** True for what callers may see in lists: finished, claimed, and not on its way out. */
export function isVisible(parts: Pick<Parts, 'doomed'>, { id, claimed, state }: Claimable): boolean {
  return claimed && !parts.doomed.has(id) && state !== 'creating' && (typeof state === 'string' || state.name !== 'creating');
}

/**
 * The object with this id, or with this unique prefix of one, as people type it. Naming an id claims the object: whoever
 * knows it was told of it.
 */
async function find<R extends Claimable>(parts: Pick<Parts, 'doomed'>, records: Records<R>, kind: string, id: string): Promise<R | undefined> {
  if (id === '') throw new CriError('invalidArgument', `${kind} id: must not be empty`);
  const whole = records.get(id);
  if (whole !== undefined) {
    if (parts.doomed.has(id) || isCreating(whole)) return undefined;
    if (whole.claimed) return whole;
    const claimed = await records.update(id, ({ unclaimedSince: _, ...old }: R & { unclaimedSince?: number }) => ({ ...(old as R), claimed: true }));
    return parts.doomed.has(id) ? undefined : claimed; // its time may have run out meanwhile
  }
  if (!/^[0-9a-f]{1,63}$/.test(id)) return undefined;
  const matches = [...records.values()].filter((record) => record.id.startsWith(id) && isVisible(parts, record));
  if (matches.length > 1) throw new CriError('invalidArgument', `${kind} id: ${quote(id)} is the beginning of ${matches.length} ids`);
  return matches[0];
}

function isCreating({ state }: Claimable): boolean {
  return state === 'creating' || (typeof state !== 'string' && state.name === 'creating');
}

export function findSandbox(parts: Needs, id: string): Promise<SandboxRecord | undefined> {
  return find(parts, parts.sandboxes, 'pod sandbox', id);
}

export function findContainer(parts: Needs, id: string): Promise<ContainerRecord | undefined> {
  return find(parts, parts.containers, 'container', id);
}

/** @throws {CriError} notFound. */
export async function requireSandbox(parts: Needs, id: string): Promise<SandboxRecord> {
  const sandbox = await findSandbox(parts, id);
  if (sandbox === undefined) throw new CriError('notFound', `pod sandbox ${quote(id)} does not exist`);
  return sandbox;
}

/** @throws {CriError} notFound. */
export async function requireContainer(parts: Needs, id: string): Promise<ContainerRecord> {
  const container = await findContainer(parts, id);
  if (container === undefined) throw new CriError('notFound', `container ${quote(id)} does not exist`);
  return container;
}

/** Every wanted label is there with the wanted value. */
export function matchesLabels(labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>>): boolean {
  return Object.entries(wanted).every(([name, value]) => labels[name] === value);
}

/** Newest first: the kubelet takes the first of a pod as its current one. */
export function newestFirst<R extends { readonly createdAt: string; readonly id: string }>(records: readonly R[]): R[] {
  return [...records].sort((a, b) => (BigInt(b.createdAt) > BigInt(a.createdAt) ? 1 : BigInt(b.createdAt) < BigInt(a.createdAt) ? -1 : a.id < b.id ? -1 : 1));
}
