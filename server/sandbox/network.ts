import { writeFileSync } from 'node:fs';
import { CriError, describeError } from '#base/errors.ts';
import { type Attachment, dnsOf, type PluginRun } from '../../cni/cni.ts';
import type { Parts } from '../parts.ts';
import { formatResolvConf, podFiles } from './files.ts';
import { unpinNamespaces } from './namespaces.ts';
import { podName, type SandboxRecord } from './sandbox.ts';

/** How often, since when and why a pod could not be taken off its network. */
export interface DetachFailure {
  /** Milliseconds since the epoch. */
  readonly since: number;
  readonly attempts: number;
  readonly error: string;
}

/** An attachment whose pod's record was lost: only its network is left to be taken down. */
export interface LostAttachment {
  readonly attachment: Attachment;
  readonly failure?: DetachFailure;
}

type NetworkParts = Pick<Parts, 'cni' | 'sandboxes' | 'timelines' | 'paths'>;

/** Puts a pod on its network; the attachment is in its record already. Throws as `Cni.attach()`. */
export async function attachNetwork(
  parts: NetworkParts,
  record: SandboxRecord,
  { signal, stage }: { readonly signal: AbortSignal; readonly stage: (name: string) => void },
): Promise<{ attachment: Attachment; ips: string[] }> {
  const { id, config } = record;
  const network = await parts.cni.attach(record.attachment as Attachment, { signal, onStage: stage, onRun: noteRun(parts, id) });
  // DEL wants the result too, should what runs beside this fail.
  parts.sandboxes.remember(id, (old) => ({ ...old, attachment: network.attachment }));
  const [main] = network.attachment.networks;
  // A pod that says nothing of its resolver gets the one of its network, where that has one.
  const dns = config.dns_config === null && main?.result !== undefined ? dnsOf(main.result) : undefined;
  if (dns !== undefined) writeFileSync(podFiles(parts.paths.bundle(id), record.namespaces).resolvConf, formatResolvConf(dns));
  return network;
}

/**
 * Takes a pod off its network. The record forgets the attachment when that is done, or when `cni_del_give_up` has passed
 * since the first failure; until then it counts the failures.
 * @throws as `Cni.detach()`.
 */
export async function detachNetwork(parts: Parts, record: SandboxRecord, signal: AbortSignal): Promise<void> {
  const { attachment, id } = record;
  if (attachment === undefined) return;
  // A stop that was begun before, or a pod that was never whole, may have lost half of its network already.
  const thorough = record.state !== 'ready' || record.stop !== undefined || attachment.networks.some(({ result }) => result === undefined);
  const failure = await detach(parts, attachment, { before: record.detach, thorough: thorough || record.detach !== undefined, signal });
  if (failure !== undefined) {
    parts.sandboxes.remember(id, (old) => ({ ...old, detach: failure.noted }));
    throw failure.err;
  }
  // Remembered at once, so that a failure beside it does not repeat DEL; a repetition after a crash does no harm.
  parts.sandboxes.remember(id, ({ attachment: _attachment, detach: _detach, ...rest }) => rest);
}

/** Takes down the network of a pod whose record was lost, and lets its namespace go. Throws as `Cni.detach()`. */
export async function detachLost(parts: Parts, id: string): Promise<void> {
  const lost = parts.lost.get(id);
  if (lost === undefined) return;
  await using _lock = await parts.locks.acquire(id, parts.signal);
  const { attachment } = lost;
  const failure = await detach(parts, attachment, { before: lost.failure, thorough: true, signal: parts.signal });
  if (failure !== undefined) {
    parts.lost.set(id, { attachment, failure: failure.noted });
    throw failure.err;
  }
  await unpinNamespaces({ net: attachment.pod.netns });
  parts.lost.delete(id);
  parts.log.info({ sandboxId: id, pod: `${attachment.pod.namespace}/${attachment.pod.name}` }, 'Took lost pod off its network');
}

async function detach(
  parts: Parts,
  attachment: Attachment,
  { before, thorough, signal }: { readonly before: DetachFailure | undefined; readonly thorough: boolean; readonly signal: AbortSignal },
): Promise<{ readonly err: unknown; readonly noted: DetachFailure } | undefined> {
  const { id, namespace, name } = attachment.pod;
  try {
    await parts.cni.detach(attachment, { signal, thorough, onRun: noteRun(parts, id) });
  } catch (err) {
    if (parts.signal.aborted) throw err; // the daemon stops: no failure of the network's
    const noted = { since: before?.since ?? Date.now(), attempts: (before?.attempts ?? 0) + 1, error: describeError(err) };
    parts.observeDetachFailure();
    const { cniDelGiveUpMs } = parts.config.network;
    if (cniDelGiveUpMs === 0 || Date.now() - noted.since < cniDelGiveUpMs) return { err, noted };
    parts.log.warn(
      { sandboxId: id, pod: `${namespace}/${name}`, count: noted.attempts, err },
      'Gave up taking pod off its network: an address, an interface or rules of it may be left',
    );
    parts.timelines.add(id, { at: Date.now(), step: 'gave up CNI DEL', ms: 0, error: noted.error });
    await parts.cni.forget(id);
  }
  parts.hostPorts.release(id);
  return undefined;
}

/** Takes the pod's host ports. @throws {CriError} `failedPrecondition` that names who has one of them. */
export function claimHostPorts({ hostPorts, sandboxes }: Pick<Parts, 'hostPorts' | 'sandboxes'>, { pod }: Attachment): void {
  const taken = hostPorts.claim(pod);
  if (taken === undefined) return;
  const owner = sandboxes.get(taken.id);
  const who = owner === undefined ? `a pod that is being made or taken down (${taken.id})` : `pod ${podName(owner.config)} (${taken.id})`;
  const why = owner?.detach === undefined ? '' : `, which cannot be taken off the network: ${owner.detach.error}`;
  throw new CriError('failedPrecondition', `host port ${taken.port} is taken by ${who}${why}`);
}

/** Tells the pod's timeline of each plugin. */
export function noteRun({ timelines }: Pick<Parts, 'timelines'>, id: string): (ended: PluginRun) => void {
  return ({ verb, plugin, network, seconds, error }) => {
    const ms = seconds * 1000;
    timelines.add(id, { at: Date.now() - ms, step: `CNI ${verb} by plugin ${plugin} (network ${network})`, ms, ...(error === undefined ? {} : { error }) });
  };
}
