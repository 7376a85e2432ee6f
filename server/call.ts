import { type handleServerStreamingCall, type handleUnaryCall, type ServerUnaryCall, status } from '@grpc/grpc-js';
import { isAbort, orAborted } from '#base/abort.ts';
import { CriError, firstFailure } from '#base/errors.ts';
import type { Log } from '#base/log.ts';
import type { Init, RpcName, Rpcs } from '../proto/cri.ts';
import { type GrpcError, toGrpc } from './grpc-error.ts';
import { sender } from './send.ts';

/** What a call is busy with, in words that complete "… did not finish within the deadline": `CNI ADD by bridge`. */
export interface Stage {
  /** Set by the handler as it goes on; at first `the call`. */
  name: string;
  /** How far that has come, asked for only when it is told. */
  progress?: () => string | undefined;
}

function describeStage({ name, progress }: Stage): string {
  const so = progress?.();
  return so === undefined ? name : `${name} (${so})`;
}

/** What a handler is given beside the request. */
export interface Call {
  /** Aborted when the client leaves (`cancelled`) and shortly before its deadline (`deadlineExceeded`). */
  readonly signal: AbortSignal;
  /** Carries the RPC's name. */
  readonly log: Log;
  /** When the client stops waiting, in milliseconds since the epoch; undefined when it waits for ever. */
  readonly deadline: number | undefined;
  readonly stage: Stage;
}

/** Answers one RPC. Throws a `CriError` for what the caller can act on; anything else is answered as UNKNOWN. */
export type Handler<Name extends RpcName> = (request: Rpcs[Name]['request'], call: Call) => Promise<Init<Rpcs[Name]['response']>>;

/**
 * Answers an RPC with a stream. `send` resolves when the client can take more and rejects with the signal's reason when
 * the client is gone; returning ends the stream.
 */
export type StreamHandler<Name extends RpcName> = (
  request: Rpcs[Name]['request'],
  call: Call,
  send: (message: Init<Rpcs[Name]['response']>) => Promise<void>,
) => Promise<void>;

export interface CallOptions {
  readonly log: Log;
  /** Told once per call when it is answered: `code` is the gRPC name, such as `OK` or `NOT_FOUND`. */
  observe(rpc: string, seconds: number, code: string): void;
  /** For what the kubelet polls: success is logged at debug. Default false. */
  readonly quiet?: boolean;
  /** Told of each call's work, which may outlast its answer; never rejects. */
  track?(running: Promise<unknown>): void;
  /** Ends the call with its reason when the daemon stops. */
  readonly stopping?: AbortSignal;
  /** How long a client may take nothing off a stream before it is cut off, in milliseconds. Default 30,000. */
  readonly stallTimeoutMs?: number;
}

type Abort = (reason: CriError) => void;

/** What both kinds of calls of grpc-js have in common. */
type Surface = Pick<ServerUnaryCall<unknown, unknown>, 'on' | 'off' | 'getDeadline'>;

type Outcome<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: GrpcError };

/** Wraps a handler as grpc-js wants it: signal, deadline, log, duration and the mapping of errors. */
export function unary<Name extends RpcName>(
  rpc: Name,
  handler: Handler<Name>,
  options: CallOptions,
): handleUnaryCall<Rpcs[Name]['request'], Init<Rpcs[Name]['response']>> {
  const log = options.log.child({ rpc });
  return (surface, reply) => {
    void conduct(rpc, surface, log, options, (call) => handler(surface.request, call)).then((outcome) => {
      if (outcome.ok) reply(null, outcome.value);
      else reply(outcome.error);
    });
  };
}

/** The same for an RPC whose answer is a stream. */
export function serverStream<Name extends RpcName>(
  rpc: Name,
  handler: StreamHandler<Name>,
  options: CallOptions,
): handleServerStreamingCall<Rpcs[Name]['request'], Init<Rpcs[Name]['response']>> {
  const log = options.log.child({ rpc });
  const { stallTimeoutMs = 30_000 } = options;
  return (stream) => {
    const work = (call: Call, abort: Abort): Promise<void> =>
      handler(stream.request, call, sender(stream, { rpc, signal: call.signal, abort, stallTimeoutMs }));
    void conduct(rpc, stream, log, options, work).then((outcome) => {
      if (outcome.ok) stream.end();
      else stream.emit('error', outcome.error); // grpc-js: becomes the stream's status once what is queued is out
    });
  };
}

/** Runs the work and settles with its answer, or with the reason why nobody waits for it any longer. Never rejects. */
async function conduct<T>(rpc: string, surface: Surface, log: Log, options: CallOptions, work: (call: Call, abort: Abort) => Promise<T>): Promise<Outcome<T>> {
  const started = performance.now();
  const durationMs = (): number => Math.round(performance.now() - started);
  const controller = new AbortController();
  const { signal } = controller;
  const abort = (reason: CriError): void => controller.abort(reason);
  const stage: Stage = { name: 'the call' };
  const deadline = deadlineOf(surface);
  const onCancelled = (): void => abort(new CriError('cancelled', `${rpc}: the client cancelled the call`));
  const onStopping = (): void => abort(options.stopping?.reason);
  surface.on('cancelled', onCancelled);
  options.stopping?.addEventListener('abort', onStopping);
  const stopClock = abortBefore(deadline, () => abort(new CriError('deadlineExceeded', `${rpc}: ${describeStage(stage)} did not finish within the deadline`)));
  if (options.stopping?.aborted === true) onStopping();

  const running = Promise.try(work, { signal, log, deadline, stage }, abort);
  options.track?.(running.catch(() => {}));
  try {
    const value = await orAborted(running, signal);
    if (options.quiet === true) log.debug({ durationMs: durationMs() }, 'Served RPC');
    else log.info({ durationMs: durationMs() }, 'Served RPC');
    observe(options, rpc, started, status.OK);
    return { ok: true, value };
  } catch (err) {
    const error = toGrpc(err);
    if (err === signal.reason && isLeaving(err)) log.info({ reason: error.details, stage: describeStage(stage), durationMs: durationMs() }, 'Ended RPC early');
    else log[levelOf(err)]({ err, stage: describeStage(stage), durationMs: durationMs() }, 'Failed RPC');
    observe(options, rpc, started, error.code);
    if (signal.aborted) logLate(running, signal, log, durationMs);
    return { ok: false, error };
  } finally {
    stopClock();
    options.stopping?.removeEventListener('abort', onStopping);
    // Off once answered: grpc-js 1.14 emits it at every close of a stream, and also after success.
    surface.off('cancelled', onCancelled);
  }
}

/** True for the ends that are nobody's failure: the client left, or the daemon stops. */
function isLeaving(err: unknown): boolean {
  return err instanceof CriError && (err.kind === 'cancelled' || err.kind === 'unavailable');
}

/** What the caller can act on is a warning here; the rest is for the operator. */
function levelOf(err: unknown): 'warn' | 'error' {
  const first = firstFailure(err);
  return first instanceof CriError || isAbort(first) ? 'warn' : 'error';
}

/** The work of a call that was answered before it ended: its own end is only of interest to whoever debugs. */
function logLate(running: Promise<unknown>, signal: AbortSignal, log: Log, durationMs: () => number): void {
  running.then(
    () => log.debug({ durationMs: durationMs() }, 'Finished RPC after it was answered'),
    (err: unknown) => {
      if (err !== signal.reason) log.debug({ err, durationMs: durationMs() }, 'Failed RPC after it was answered');
    },
  );
}

function observe(options: CallOptions, rpc: string, started: number, code: status): void {
  options.observe(rpc, (performance.now() - started) / 1000, status[code]);
}

function deadlineOf(surface: Surface): number | undefined {
  const deadline = Number(surface.getDeadline());
  return Number.isFinite(deadline) ? deadline : undefined;
}

/**
 * Runs `expire` a margin before the deadline, the smaller of 1 s and 5 % of what is left: at the deadline itself a Go
 * client makes up its own error and ours would come too late. Returns what stops the clock.
 */
function abortBefore(deadline: number | undefined, expire: () => void): () => void {
  if (deadline === undefined) return () => {};
  const leftMs = deadline - Date.now();
  const delayMs = Math.max(0, leftMs - Math.min(1000, leftMs * 0.05));
  if (delayMs > 0x7fff_ffff) return () => {}; // setTimeout would fire at once
  const timer = setTimeout(expire, delayMs);
  return () => clearTimeout(timer);
}
