import type { Duplex } from 'node:stream';
import { describeError } from '#base/errors.ts';
import { Relay } from '#base/relay.ts';
import type { PortConnector } from './session.ts';

/** One forwarded connection: the client's two streams. */
export interface ForwardStreams {
  /** Its readable and its writable side end apart. `close` without `end` tells that the client gave it up. */
  readonly data: Duplex;
  /** Says, as text, why nothing was connected. Its end, with or without, tells the client that the pod has sent all. */
  readonly error: Duplex;
}

/**
 * Connects one pair of streams to a port of the pod and carries bytes until both sides have ended. Only what keeps the
 * connection from being made is told: a connection that breaks later just ends, for clients take a text on the error
 * stream as a reason to give up the whole session. Never rejects.
 */
export async function forward({ data, error }: ForwardStreams, port: number, connect: PortConnector, signal: AbortSignal): Promise<void> {
  const gone = new AbortController();
  data.once('close', () => gone.abort(new Error('the client has closed the connection')));
  const relay = new Relay(data, () => pod.resume());
  let pod: Duplex;
  try {
    pod = await connect(port, relay.onread, AbortSignal.any([signal, gone.signal]));
  } catch (err) {
    error.end(`forward to port ${port}: ${describeError(err)}`, () => data.destroy());
    return;
  }
  if (data.destroyed) pod.destroy();
  else await carry(data, pod, signal, () => error.end());
  error.end();
}

/** Resolves when both are closed. */
function carry(client: Duplex, pod: Duplex, signal: AbortSignal, podEnded: () => void): Promise<void> {
  const stop = (): void => void pod.destroy();
  signal.addEventListener('abort', stop, { once: true });
  return new Promise((resolve) => {
    let open = 2;
    const closed = (): void => {
      open -= 1;
      if (open > 0) return;
      signal.removeEventListener('abort', stop);
      resolve();
    };
    pod.on('error', () => {}); // `close` follows
    pod.once('end', () => {
      podEnded();
      client.end();
    });
    pod.once('close', () => {
      closed();
      if (!pod.readableEnded) return client.destroy(); // broken off: the client is not to take what it got for all
      client.resume(); // nobody is left to take what it still sends
      if (client.writableFinished) return client.destroy();
      return client.once('finish', () => client.destroy());
    });
    client.once('close', () => {
      closed();
      // When both had ended in order the pod may still have to read the last bytes; else it is cut off.
      if (!(client.readableEnded && pod.readableEnded)) pod.destroy();
    });
    client.pipe(pod);
    pod.resume();
  });
}
