import { closeSync } from 'node:fs';
import { type OnReadOpts, Socket } from 'node:net';
import { CriError, describeError, isErrno } from '#base/errors.ts';
import { SysError, tcpSocketIn } from '#base/sys.ts';

/** Where a listener that answers nothing has its queue full. */
const CONNECT_TIMEOUT_MS = 30_000;
const HOSTS = [
  { host: '127.0.0.1', family: 4, shown: '127.0.0.1' },
  { host: '::1', family: 6, shown: '[::1]' },
] as const;

/**
 * Connects to a port on the pod's loopback, by IPv4 and then by IPv6. `netns` is the path of the pod's network namespace,
 * `undefined` for the node's own; what comes from there goes to `onread`, see net.Socket.
 * @throws {CriError} `failedPrecondition` where the namespace is gone, `unavailable` where nothing answers.
 */
export async function connectToPod(netns: string | undefined, port: number, onread: OnReadOpts, signal: AbortSignal): Promise<Socket> {
  const failures: string[] = [];
  for (const { host, family, shown } of HOSTS) {
    try {
      return await connected(openSocket(netns, family, onread), host, port, signal);
    } catch (err) {
      signal.throwIfAborted();
      if (isErrno(err, 'ENOENT') || (err instanceof SysError && err.syscall === 'setns')) {
        throw new CriError('failedPrecondition', 'the network namespace of the pod is gone', { cause: err });
      }
      failures.push(`${shown}:${port} ${err instanceof Error && 'code' in err ? err.code : describeError(err)}`);
    }
  }
  throw new CriError('unavailable', `nothing answers in the pod: ${failures.join(', ')}`);
}

/** Made in the pod's namespace; what Node does with it later happens there too. */
function openSocket(netns: string | undefined, family: 4 | 6, onread: OnReadOpts): Socket {
  if (netns === undefined) return new Socket({ allowHalfOpen: true, onread });
  const fd = tcpSocketIn(netns, family);
  try {
    return new Socket({ fd, allowHalfOpen: true, onread });
  } catch (err) {
    closeSync(fd);
    throw err;
  }
}

function connected(socket: Socket, host: string, port: number, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      socket.off('error', fail);
    };
    const fail = (err: unknown): void => {
      settle();
      socket.on('error', () => {});
      socket.destroy();
      reject(err);
    };
    const onAbort = (): void => fail(signal.reason);
    const timer = setTimeout(() => fail(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })), CONNECT_TIMEOUT_MS);
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('error', fail);
    socket.once('connect', () => {
      settle();
      resolve(socket.setNoDelay(true));
    });
    if (signal.aborted) onAbort();
    else socket.connect({ host, port });
  });
}
