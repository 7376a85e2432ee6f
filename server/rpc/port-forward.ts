import type { Duplex } from 'node:stream';
import { CriError, invalidField } from '#base/errors.ts';
import type { Handler } from '../call.ts';
import type { Parts } from '../parts.ts';
import { connectToPod } from '../sandbox/port-forward.ts';
import type { Inbox } from '../stream/session.ts';
import { requireSandbox } from './lookup.ts';

export const portForward =
  (parts: Parts): Handler<'PortForward'> =>
  async ({ pod_sandbox_id, port }) => {
    const { id, state } = await requireSandbox(parts, pod_sandbox_id);
    if (state !== 'ready') throw new CriError('failedPrecondition', `pod_sandbox_id: sandbox ${id} is not ready: a port needs a running pod`);
    port.forEach((value, index) => {
      if (value < 1 || value > 65_535) throw invalidField(`port[${index}]`, value, 'is not a port from 1 to 65535');
    });
    return { url: parts.streams.portForward(id, port, (to, inbox, signal) => connectTo(parts, id, to, inbox, signal)) };
  };

/** The pod may have been stopped since the client was given its URL. */
async function connectTo(parts: Parts, id: string, port: number, inbox: Inbox, signal: AbortSignal): Promise<Duplex> {
  const sandbox = parts.sandboxes.get(id);
  if (sandbox?.state !== 'ready') throw new CriError('failedPrecondition', `pod sandbox ${id} is not running any more`);
  return await connectToPod(sandbox.namespaces.net, port, inbox, signal);
}
