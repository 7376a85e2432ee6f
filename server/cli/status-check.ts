import { Client, credentials } from '@grpc/grpc-js';

const STATUS = '/runtime.v1.RuntimeService/Status';

/**
 * Calls Status over the daemon's own socket, as the kubelet does. An empty message is a valid StatusRequest, so the
 * proto is not needed here.
 */
export function createStatusCheck(socketPath: string): { readonly check: (signal: AbortSignal) => Promise<void> } & Disposable {
  const client = new Client(`unix:${socketPath}`, credentials.createInsecure());
  const check = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      const call = client.makeUnaryRequest(
        STATUS,
        (empty: Buffer) => empty,
        (bytes) => bytes,
        Buffer.alloc(0),
        (err) => {
          signal.removeEventListener('abort', onAbort);
          if (err === null) resolve();
          else reject(signal.aborted ? signal.reason : err);
        },
      );
      const onAbort = (): void => call.cancel();
      signal.addEventListener('abort', onAbort, { once: true });
    });
  return { check, [Symbol.dispose]: () => client.close() };
}
