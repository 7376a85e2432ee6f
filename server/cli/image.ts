import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { request } from 'node:http';
import { resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { CriError, isErrno } from '#base/errors.ts';
import type { LoadAnswer, LoadedImage } from '../admin.ts';

export interface LoadRequest {
  /** The daemon's admin socket. */
  readonly socketPath: string;
  /** An archive, an OCI layout's directory, or `-` for an archive from `stdin`. */
  readonly source: string;
  readonly name: string | undefined;
  readonly stdin: NodeJS.ReadableStream;
}

/**
 * Has the running daemon load an image. An archive is sent; a directory is read by the daemon itself.
 * @throws {CriError} `unavailable` when no daemon listens, else with what the daemon answers.
 */
export async function loadImage({ socketPath, source, name, stdin }: LoadRequest): Promise<readonly LoadedImage[]> {
  const query = new URLSearchParams(name === undefined ? {} : { name });
  const found = source === '-' ? undefined : await lookAt(source);
  if (found?.isDirectory() === true) query.set('path', resolve(source));
  const body = source === '-' ? stdin : found?.isDirectory() === true ? undefined : createReadStream(source);
  const answer = await post(socketPath, `/images/load?${query}`, body, found?.isFile() === true ? found.size : undefined);
  if ('error' in answer) throw new CriError('unknown', answer.error);
  return answer.images;
}

async function lookAt(source: string) {
  try {
    return await stat(source);
  } catch (err) {
    throw new CriError('invalidArgument', `${source}: cannot be read`, { cause: err });
  }
}

async function post(socketPath: string, path: string, body: NodeJS.ReadableStream | undefined, length: number | undefined): Promise<LoadAnswer> {
  const headers = body === undefined ? { 'content-length': 0 } : length === undefined ? {} : { 'content-length': length };
  const call = request({ socketPath, path, method: 'POST', headers });
  const response = new Promise<LoadAnswer>((resolve, reject) => {
    call.on('error', (err) =>
      reject(isErrno(err, 'ENOENT', 'ECONNREFUSED') ? new CriError('unavailable', `no daemon listens on ${socketPath}`, { cause: err }) : err),
    );
    call.on(
      'response',
      (message) =>
        void text(message)
          .then((answer) => resolve(JSON.parse(answer) as LoadAnswer))
          .catch(reject),
    );
  });
  const sent = body === undefined ? Promise.resolve(void call.end()) : pipeline(body, call);
  // A daemon that refuses answers before it has read everything: then the answer tells more than the broken pipe.
  const [answer] = await Promise.all([response, sent.catch(() => {})]);
  return answer;
}
