import type { Duplex } from 'node:stream';
import { CriError } from '#base/errors.ts';
import { clientGone, conduct, idleTooLong, type LiveSession } from './conduct.ts';
import { type Ending, endingStatus, endingText } from './exit-status.ts';
import type { SessionHandler, StreamOptions } from './session.ts';
import { SpdyConnection } from './spdy.ts';
import type { SpdyError } from './spdy-frame.ts';
import type { SpdyStream } from './spdy-stream.ts';
import { SizeReader } from './terminal-size.ts';

/** Best first. Source: k8s.io/apimachinery, util/remotecommand. */
export const EXEC_SPDY_PROTOCOLS = ['v4.channel.k8s.io', 'v3.channel.k8s.io', 'v2.channel.k8s.io', 'channel.k8s.io'] as const;
export type ExecSpdyProtocol = (typeof EXEC_SPDY_PROTOCOLS)[number];

export interface Limits {
  readonly idleTimeoutMs: number;
  readonly creationTimeoutMs: number;
}

type Role = 'error' | 'stdin' | 'stdout' | 'stderr' | 'resize';

/** Serves an exec or an attach to a client that speaks SPDY, on the connection that is left of its HTTP request. */
export function serveExecSpdy(
  transport: Duplex,
  head: Buffer,
  { protocol, streams: wanted, limits }: { readonly protocol: ExecSpdyProtocol; readonly streams: StreamOptions; readonly limits: Limits },
  handler: SessionHandler,
  report: (err: SpdyError) => void,
): LiveSession {
  const controller = new AbortController();
  const sizes = new SizeReader();
  const roles = rolesOf(wanted, protocol);
  const found = new Map<Role, SpdyStream>();
  const { promise: live, resolve: goLive } = Promise.withResolvers<LiveSession | undefined>();

  const finish = (ending: Ending): void => {
    const text = protocol === 'v4.channel.k8s.io' ? endingStatus(ending) : endingText(ending);
    const error = found.get('error');
    if (error === undefined || error.destroyed) connection.close();
    else error.once('finish', () => connection.close()).end(text);
  };
  let begun = false;
  const giveUp = (reason: CriError): void => {
    controller.abort(reason);
    if (!begun) finish({ err: reason }); // there is no session yet that would do it
  };
  const clock = setTimeout(() => {
    const missing = [...roles].filter((role) => !found.has(role)).join(', ');
    giveUp(new CriError('deadlineExceeded', `streaming: the client did not open ${missing} within ${limits.creationTimeoutMs / 1_000} s`));
  }, limits.creationTimeoutMs);

  const begin = (): void => {
    clearTimeout(clock);
    if (controller.signal.aborted) return;
    begun = true;
    const session = {
      stdin: found.get('stdin'),
      stdout: found.get('stdout'),
      stderr: found.get('stderr'),
      terminal: wanted.tty ? sizes : undefined,
    };
    goLive(conduct({ session, controller, finish }, handler));
  };

  const connection: SpdyConnection = new SpdyConnection(transport, head, limits.idleTimeoutMs, {
    stream(stream) {
      const role = stream.headers.get('streamtype') as Role;
      if (!roles.has(role) || found.has(role) || controller.signal.aborted) return false;
      found.set(role, stream);
      if (role === 'resize') stream.on('data', (bytes: Buffer) => sizes.push(bytes));
      else if (role !== 'stdin') stream.resume(); // nothing is to come but its end
      // Reset by the client: what it asked for is no longer wanted.
      stream.once('close', () => {
        if (!stream.wasCutOff) return;
        controller.abort(clientGone());
        connection.close();
      });
      if (found.size === roles.size) setImmediate(begin);
      return true;
    },
    idle: () => giveUp(idleTooLong(limits.idleTimeoutMs)),
    closed(err) {
      clearTimeout(clock);
      controller.abort(clientGone());
      goLive(undefined);
      if (err !== undefined) report(err);
    },
  });
  return { end: giveUp, done: live.then((session) => session?.done) };
}

/** The streams that the client will open: those that were asked for, the one for the ending, and since v3 the one for sizes. */
function rolesOf({ stdin, stdout, stderr, tty }: StreamOptions, protocol: ExecSpdyProtocol): ReadonlySet<Role> {
  const hasSizes = protocol === 'v4.channel.k8s.io' || protocol === 'v3.channel.k8s.io';
  const asked: Readonly<Record<Role, boolean>> = { error: true, stdin, stdout, stderr: stderr && !tty, resize: tty && hasSizes };
  return new Set((Object.keys(asked) as Role[]).filter((role) => asked[role]));
}
