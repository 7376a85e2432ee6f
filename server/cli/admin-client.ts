import { type IncomingMessage, request } from 'node:http';
import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream/promises';
import { CriError, isErrno } from '#base/errors.ts';
import type { AdminFailure } from '../admin.ts';

export interface AdminRequest {
  readonly method: 'GET' | 'POST';
  /** With its query. */
  readonly path: string;
  readonly body?: string | NodeJS.ReadableStream;
  /** Of a stream, where that is known. */
  readonly bodyBytes?: number;
}

/**
 * Asks the running daemon; gives the objects of its answer as they come, the answer itself last.
 * @throws {CriError} `unavailable` when no daemon listens or it ends amid its answer, else with what the daemon answers.
 */
export async function* askDaemon<Line extends object>(socketPath: string, asked: AdminRequest): AsyncGenerator<Line> {
  const response = await send(socketPath, asked);
  let last: object | undefined;
  for await (const text of createInterface({ input: response })) {
    last = parseLine(text);
    if ('error' in last) throw new CriError('unknown', (last as AdminFailure).error);
    yield last as Line;
  }
  if (last === undefined || !response.complete) throw new CriError('unavailable', 'the daemon ended before it had answered');
}

/** The same where nothing comes before the answer. */
export async function askOnce<Answer extends object>(socketPath: string, asked: AdminRequest): Promise<Answer> {
  let answer: Answer | undefined;
  for await (const line of askDaemon<Answer>(socketPath, asked)) answer = line;
  return answer as Answer;
}

async function send(socketPath: string, { method, path, body, bodyBytes }: AdminRequest): Promise<IncomingMessage> {
  const length = typeof body === 'string' ? Buffer.byteLength(body) : body === undefined ? 0 : bodyBytes;
  const call = request({ socketPath, path, method, headers: length === undefined ? {} : { 'content-length': length } });
  const response = new Promise<IncomingMessage>((resolve, reject) => {
    call.on('response', resolve);
    call.on('error', (err) => reject(toCriError(err, socketPath)));
  });
  if (body === undefined || typeof body === 'string') call.end(body);
  // A daemon that refuses answers before it has read everything: then the answer tells more than the broken pipe.
  else pipeline(body, call).catch(() => {});
  return await response;
}

function toCriError(err: Error, socketPath: string): Error {
  if (isErrno(err, 'ENOENT', 'ECONNREFUSED'))
    return new CriError('unavailable', `no daemon listens on ${socketPath}: is berth running, with this configuration?`, { cause: err });
  if (isErrno(err, 'EACCES')) return new CriError('failedPrecondition', `${socketPath}: only root may ask the daemon`, { cause: err });
  return new CriError('unavailable', `the daemon on ${socketPath} did not answer`, { cause: err });
}

function parseLine(text: string): object {
  const line: unknown = JSON.parse(text);
  if (typeof line !== 'object' || line === null) throw new CriError('unknown', 'the daemon answered with what is no object');
  return line;
}
