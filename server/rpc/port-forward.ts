import { CriError, invalidField } from '#base/errors.ts';
import type { Handler } from '../call.ts';
import type { Parts } from '../parts.ts';
import { requireSandbox } from './lookup.ts';

export const portForward =
  (parts: Parts): Handler<'PortForward'> =>
  async ({ pod_sandbox_id, port }) => {
    const { id, state } = await requireSandbox(parts, pod_sandbox_id);
    if (state !== 'ready') throw new CriError('failedPrecondition', `pod_sandbox_id: sandbox ${id} is not ready: a port needs a running pod`);
    port.forEach((value, index) => {
      if (value < 1 || value > 65_535) throw invalidField(`port[${index}]`, value, 'is not a port from 1 to 65535');
    });
    throw new CriError('unimplemented', 'PortForward is not implemented by this version of Berth');
  };
