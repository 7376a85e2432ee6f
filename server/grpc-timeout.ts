import { subscribe, unsubscribe } from 'node:diagnostics_channel';

/** Seconds in the longest timeout that fits a timer's 32 bits of milliseconds: 24 days and 20 hours. */
const maxSeconds = 2_147_483;

/** As in the gRPC protocol: at most eight digits and a unit. Milliseconds and less stay below the maximum. */
const secondsOf = { H: 3600, M: 60, S: 1 } as const;

/**
 * Shortens `grpc-timeout` headers that are too long for grpc-js 1.14, which cuts milliseconds to 32 bits and so ends such
 * a call at once. The kubelet sends them: StopContainer may take the pod's grace period, and that of a pod that must never
 * be interrupted is often a year. Works on all HTTP/2 servers of the process until disposed.
 */
export function limitTimeouts(): Disposable {
  const onStream = (message: unknown): void => {
    const { headers } = message as { headers: Record<string, string | undefined> };
    const [, digits, unit] = /^(\d{1,8})([HMS])$/.exec(headers['grpc-timeout'] ?? '') ?? [];
    if (digits === undefined) return;
    if (Number(digits) * secondsOf[unit as keyof typeof secondsOf] > maxSeconds) headers['grpc-timeout'] = `${maxSeconds}S`;
  };
  subscribe('http2.server.stream.created', onStream);
  return { [Symbol.dispose]: () => void unsubscribe('http2.server.stream.created', onStream) };
}
