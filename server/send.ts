import { constants } from 'node:http2';
import type { ServerWritableStream } from '@grpc/grpc-js';
import { orAborted } from '#base/abort.ts';
import { CriError } from '#base/errors.ts';

/** grpc-js keeps 16 messages of a stream in its own queue; so many more may wait here. */
const maxWaiting = 64;

export interface SendOptions {
  readonly rpc: string;
  /** Ends every wait with its reason. */
  readonly signal: AbortSignal;
  /** Aborts that signal: called when the client does not read. */
  abort(reason: CriError): void;
  /** How long nothing may move before the client counts as one that does not read. */
  readonly stallTimeoutMs: number;
}

/**
 * `send` for one stream: messages go out in the order of the calls, and a call resolves when there is room for the next
 * one. grpc-js only advises on this, and would keep any number of messages for a client that does not read; here such a
 * client is cut off with RESOURCE_EXHAUSTED, by too many calls at once or by too long a wait.
 */
export function sender<Message>(
  stream: ServerWritableStream<unknown, Message>,
  { rpc, signal, abort, stallTimeoutMs }: SendOptions,
): (message: Message) => Promise<void> {
  let waiting = 0;
  let last = Promise.resolve();
  const cutOff = (what: string): void => {
    abort(new CriError('resourceExhausted', `${rpc}: the client ${what}`));
    resetStream(stream);
  };
  const write = async (message: Message): Promise<void> => {
    signal.throwIfAborted();
    if (stream.write(message)) return;
    const { promise: drained, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => cutOff(`took no message for ${stallTimeoutMs} ms`), stallTimeoutMs);
    stream.once('drain', resolve);
    try {
      await orAborted(drained, signal);
    } finally {
      clearTimeout(timer);
      stream.off('drain', resolve);
    }
  };
  return async (message) => {
    if (waiting >= maxWaiting && !signal.aborted) cutOff(`left ${waiting} messages unread`);
    signal.throwIfAborted();
    waiting += 1;
    const turn = last
      .then(() => write(message))
      .finally(() => {
        waiting -= 1;
      });
    last = turn.catch(() => {});
    await turn;
  };
}

/**
 * RST_STREAM, which a client's closed window cannot hold up. grpc-js 1.14 has no public way to it (its status waits behind
 * the unread messages), hence the look into its private fields; without them the stream would last as long as its connection.
 */
function resetStream(stream: object): void {
  const { call } = stream as { call?: { stream?: { close?(code: number): void } } };
  call?.stream?.close?.(constants.NGHTTP2_ENHANCE_YOUR_CALM);
}
