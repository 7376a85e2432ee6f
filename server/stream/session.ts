import type { Duplex, Readable, Writable } from 'node:stream';

/** Columns and rows; both at least 1. */
export interface TerminalSize {
  readonly width: number;
  readonly height: number;
}

/** The sizes of the client's terminal. One may be there before the session's first byte. */
export interface TerminalSizes {
  readonly latest: TerminalSize | undefined;
  /** Tells of the latest size at once, if there is one, and of each later one. Returns what ends that. */
  follow(listener: (size: TerminalSize) => void): () => void;
}

/** Which streams the caller of Exec or Attach asked for. */
export interface StreamOptions {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/**
 * The client's side of one exec or attach, whatever protocol it speaks. A stream that was not asked for is `undefined`.
 * None of them ever emits an unhandled `error`: the one way to learn of the client's end is the signal.
 */
export interface RemoteSession {
  /** Ends at the client's half-close. As long as it is not read the client is held back: memory stays bounded. */
  readonly stdin: Readable | undefined;
  /**
   * `write()` answers false while the client is slow, until `drain`; its callback comes when the buffer may be used again.
   * Ended by the server once the handler has returned.
   */
  readonly stdout: Writable | undefined;
  /** Never there with a terminal. */
  readonly stderr: Writable | undefined;
  /** There with a terminal. */
  readonly terminal: TerminalSizes | undefined;
  /**
   * Aborted with a `CriError` when the client has gone (`cancelled`), when nothing passed for the idle timeout
   * (`deadlineExceeded`), and when the daemon stops (`unavailable`). All streams are destroyed by then.
   */
  readonly signal: AbortSignal;
}

/**
 * Serves one session. Returns once all output has been written (not: flushed), with the exit code of an exec and
 * `undefined` for an attach. What it throws is told to the client, as the status of the session.
 */
export type SessionHandler = (session: RemoteSession) => Promise<number | undefined>;

/** Takes what a connection's other side sends; as the `onread` of Node's sockets. */
export interface Inbox {
  /** Where the next piece is to be read into. */
  readonly buffer: () => Buffer;
  /** Takes the first `length` bytes of it; false asks for no more until the connection is resumed. */
  readonly callback: (length: number, buffer: Uint8Array) => boolean;
}

/**
 * Connects to a port in the pod. All that the pod sends goes to the inbox, once the connection is resumed; its end is the
 * connection's `end`. The answer's `allowHalfOpen` is true; what it throws is told to the client.
 * @throws {CriError} where nothing listens, or the pod is gone.
 */
export type PortConnector = (port: number, inbox: Inbox, signal: AbortSignal) => Promise<Duplex>;

/** Where clients meet what the RPCs prepare for them: each call makes a URL that can be used once, within a minute. */
export interface StreamUrls {
  /** @throws {CriError} `resourceExhausted` while 1,000 URLs wait to be used. */
  exec(options: StreamOptions, handler: SessionHandler): string;
  /** As `exec`. */
  attach(options: StreamOptions, handler: SessionHandler): string;
  /** As `exec`. `pod` is the sandbox's id; `ports` are those of the request: clients that speak the old WebSocket protocol name none of their own. */
  portForward(pod: string, ports: readonly number[], connect: PortConnector): string;
  /** Ends the port-forwards of a pod that is stopped. */
  podStopped(pod: string): void;
}
