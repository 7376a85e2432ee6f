import { PassThrough, Transform } from 'node:stream';
import { CriError } from '#base/errors.ts';
import type { RemoteSession, TerminalSize } from '../../../../server/stream/session.ts';

/** A client of an exec or attach, without the network between. */
export interface Client {
  readonly session: RemoteSession;
  /** What has come so far. */
  readonly out: () => string;
  readonly err: () => string;
  readonly outBytes: () => number;
  readonly type: (text: string | Buffer) => void;
  readonly endInput: () => void;
  readonly resize: (width: number, height: number) => void;
  /** As if the connection had broken. */
  readonly leave: () => void;
  /** Stops and goes on reading. */
  readonly hold: () => void;
  readonly release: () => void;
}

export interface ClientOptions {
  readonly stdin?: boolean;
  readonly tty?: boolean;
  /** Of the terminal, from the beginning. */
  readonly size?: TerminalSize;
  /** Begins without reading. */
  readonly held?: boolean;
}

export const GONE = new CriError('cancelled', 'the client has gone');

/** As the real ones it is done with a buffer when it calls back: whoever wrote may use it again. */
const copying = (): Transform => new Transform({ transform: (chunk: Buffer, _encoding, done) => done(null, Buffer.from(chunk)) });

export function makeClient({ stdin = false, tty = false, size, held = false }: ClientOptions = {}): Client {
  const controller = new AbortController();
  const streams = { stdin: new PassThrough(), stdout: copying(), stderr: copying() };
  const received = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  for (const name of ['stdout', 'stderr'] as const) streams[name].on('data', (chunk: Buffer) => received[name].push(chunk));
  for (const stream of Object.values(streams)) stream.on('error', () => {});
  const listeners = new Set<(size: TerminalSize) => void>();
  let latest = size;
  if (held) streams.stdout.pause();
  return {
    session: {
      stdin: stdin ? streams.stdin : undefined,
      stdout: streams.stdout,
      stderr: tty ? undefined : streams.stderr,
      terminal: tty
        ? {
            get latest() {
              return latest;
            },
            follow(listener) {
              listeners.add(listener);
              if (latest !== undefined) listener(latest);
              return () => listeners.delete(listener);
            },
          }
        : undefined,
      signal: controller.signal,
    },
    out: () => Buffer.concat(received.stdout).toString(),
    err: () => Buffer.concat(received.stderr).toString(),
    outBytes: () => received.stdout.reduce((sum, { length }) => sum + length, 0),
    type: (text) => void streams.stdin.write(text),
    endInput: () => void streams.stdin.end(),
    resize: (width, height) => {
      latest = { width, height };
      for (const listener of listeners) listener(latest);
    },
    leave: () => {
      for (const stream of Object.values(streams)) stream.destroy();
      controller.abort(GONE);
    },
    hold: () => void streams.stdout.pause(),
    release: () => void streams.stdout.resume(),
  };
}
