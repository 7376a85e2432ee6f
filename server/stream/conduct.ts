import type { Readable, Writable } from 'node:stream';
import { orAborted } from '#base/abort.ts';
import { CriError } from '#base/errors.ts';
import type { Ending } from './exit-status.ts';
import type { RemoteSession, SessionHandler } from './session.ts';

/** A session being served, as the server sees it. */
export interface LiveSession {
  /** Ends it, and tells the client why. */
  end(reason: CriError): void;
  /** Resolves when the handler has settled and nothing more will be sent. Never rejects. */
  readonly done: Promise<void>;
}

/** What a protocol gives to `conduct`: the session, and how to tell its client of the end. */
export interface Wire {
  readonly session: Omit<RemoteSession, 'signal'>;
  /** Ends the session when it is aborted; its reason must be a `CriError`. */
  readonly controller: AbortController;
  /** Sends the ending, and closes. Called once, with all output sent, and not when the client has gone. */
  finish(ending: Ending): void;
}

export const clientGone = (): CriError => new CriError('cancelled', 'streaming: the client has gone');

export const idleTooLong = (idleTimeoutMs: number): CriError =>
  new CriError('deadlineExceeded', `streaming: nothing was sent or received for ${idleTimeoutMs / 1_000} s`);

/** Runs the handler of a session to its end, and tells the client of it. */
export function conduct({ session, controller, finish }: Wire, handler: SessionHandler): LiveSession {
  const { signal } = controller;
  const { stdin, stdout, stderr } = session;
  signal.addEventListener('abort', () => destroyAll(stdin, stdout, stderr), { once: true });
  const work = Promise.try(handler, { ...session, signal });
  const told = (async () => {
    let ending: Ending;
    try {
      ending = { exitCode: await orAborted(work, signal) };
    } catch (err) {
      ending = { err };
    }
    stdin?.unpipe().resume(); // what the client still sends is dropped
    // Whoever wrote the output may have gone long before a slow client has read it.
    await Promise.all([stdout, stderr].map((stream) => stream && endOf(stream)));
    if (signal.aborted) ending = { err: signal.reason };
    if (!isGone(signal)) finish(ending);
  })();
  const settled = work.then(
    () => {},
    () => {},
  );
  return {
    end: (reason) => controller.abort(reason),
    done: Promise.all([told, settled]).then(() => {}),
  };
}

const isGone = ({ aborted, reason }: AbortSignal): boolean => aborted && reason instanceof CriError && reason.kind === 'cancelled';

function destroyAll(...streams: readonly (Readable | Writable | undefined)[]): void {
  for (const stream of streams) stream?.destroy();
}

/** Ends a stream and waits until it has taken everything, or is destroyed. */
function endOf(stream: Writable): Promise<void> {
  if (stream.destroyed || stream.writableFinished) return Promise.resolve();
  return new Promise((resolve) => {
    stream.once('finish', resolve);
    stream.once('close', resolve);
    if (!stream.writableEnded) stream.end();
  });
}
