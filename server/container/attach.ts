import { orAborted } from '#base/abort.ts';
import { CriError } from '#base/errors.ts';
import { PIECE_BYTES } from '#base/relay.ts';
import { type Attached, type AttachedStream, attachTo, bundleFiles, resize } from '../../conmon/conmon.ts';
import type { RemoteSession } from '../stream/session.ts';
import { feed } from './exec-terminal.ts';
import type { Viewers } from './viewers.ts';

/** What an attach needs to know of its container. */
export interface AttachTarget {
  readonly id: string;
  readonly bundle: string;
  /** The container reads a stdin. */
  readonly stdin: boolean;
  /** The first client's leaving ends it. */
  readonly stdinOnce: boolean;
  /** The monitor's pid where the container has a terminal. */
  readonly terminalOf: number | undefined;
  /** Clients that share one connection to the monitor. */
  readonly viewers: Viewers;
}

/** Output that may wait for a slow client; more ends its session. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

/**
 * Connects a client to a running container until one of them goes: output from now on, input if it was asked for. A
 * client that does not keep up is cut off: waiting for it would stop the monitor, and so the container and its log.
 * @throws {CriError} `failedPrecondition` without a monitor, `resourceExhausted` when the client is too slow.
 */
export async function attachSession(target: AttachTarget, session: RemoteSession): Promise<void> {
  const { signal, stdin, terminal } = session;
  const { promise: tooSlow, reject: cutOff } = Promise.withResolvers<never>();
  tooSlow.catch(() => {}); // told by whoever waits for it
  let waiting = 0;
  const onOutput = (stream: AttachedStream, bytes: Buffer): void => {
    // A terminal's client has one stream, and so has one who asked for a terminal where there is none.
    const sink = stream === 'stderr' && terminal === undefined ? session.stderr : session.stdout;
    if (sink === undefined || sink.destroyed) return;
    if (waiting > MAX_WAITING_BYTES) {
      cutOff(slow(target));
      return;
    }
    const cost = bytes.length + PIECE_BYTES; // containers may print letter by letter
    waiting += cost;
    sink.write(bytes, () => {
      waiting -= cost;
    });
  };
  using connection = await connect(target, session, onOutput);
  const unfollow = terminal?.follow(({ width, height }) => void resize(target.bundle, width, height).catch(() => {})); // it has ended
  try {
    if (stdin !== undefined) void type(target, stdin, connection.attached).catch(() => {}); // the session has ended
    await orAborted(Promise.race([connection.attached.closed, tooSlow]), signal);
  } finally {
    unfollow?.();
  }
}

interface Connection extends Disposable {
  readonly attached: Attached;
}

/**
 * The monitor ends the stdin of a `stdinOnce` container when any of its clients goes, also one that only looks on: such
 * clients share a connection that stays.
 */
async function connect(target: AttachTarget, { stdin, signal }: RemoteSession, onOutput: (stream: AttachedStream, bytes: Buffer) => void): Promise<Connection> {
  const socket = bundleFiles(target.bundle).attach;
  if (stdin === undefined && target.stdin && target.stdinOnce) return target.viewers.join(target.id, socket, onOutput);
  const attached = await attachTo(socket, onOutput, { terminalOf: target.terminalOf, signal });
  return { attached, [Symbol.dispose]: () => attached[Symbol.dispose]() };
}

async function type(target: AttachTarget, stdin: NonNullable<RemoteSession['stdin']>, attached: Attached): Promise<void> {
  if (!target.stdin) {
    stdin.resume(); // nobody reads it
    return;
  }
  await feed(stdin, attached);
  attached.endInput();
}

function slow({ id }: AttachTarget): CriError {
  const limit = `${MAX_WAITING_BYTES / 1024 ** 2} MiB`;
  return new CriError(
    'resourceExhausted',
    `attach to container ${id}: ${limit} of output wait for the client, which is too slow: cut off, so as not to stall the container`,
  );
}
