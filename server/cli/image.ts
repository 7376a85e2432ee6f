import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { CriError } from '#base/errors.ts';
import type { CheckAnswer, FindingLine, ImageSummary, ImagesAnswer, PullAnswer, PullLine, PullRequest, PullsAnswer, RemoveAnswer } from '../admin-images.ts';
import { askDaemon, askOnce } from './admin-client.ts';
import { createDisplay, drawBars, type ProgressStream } from './progress.ts';

/** A `berth image` command. `json` prints what the daemon answers, one object a line or one array. */
export type ImageCommand =
  | { readonly verb: 'load'; readonly source: string; readonly imageName: string | undefined; readonly json: boolean }
  | { readonly verb: 'pull'; readonly request: PullRequest; readonly quiet: boolean; readonly json: boolean }
  | { readonly verb: 'pulls'; readonly json: boolean }
  | { readonly verb: 'ls'; readonly quiet: boolean; readonly json: boolean }
  | { readonly verb: 'rm'; readonly names: readonly string[] }
  | { readonly verb: 'check'; readonly full: boolean; readonly repair: boolean; readonly json: boolean };

export interface ImageCommandDeps {
  /** The daemon's admin socket. */
  readonly socketPath: string;
  readonly stdin: NodeJS.ReadableStream;
  readonly stdout: { write(text: string): unknown };
  readonly stderr: ProgressStream;
}

/**
 * Has the running daemon do it. Gives the exit code: 0, or 1 when `rm` found no such image or `check` something that it
 * has not repaired.
 * @throws {CriError} for every other failure, such as `unavailable` when no daemon listens.
 */
export async function runImageCommand(command: ImageCommand, deps: ImageCommandDeps): Promise<number> {
  switch (command.verb) {
    case 'load':
      return load(command, deps);
    case 'pull':
      return pull(command, deps);
    case 'pulls':
      return showPulls(command, deps);
    case 'ls':
      return list(command, deps);
    case 'rm':
      return remove(command, deps);
    case 'check':
      return check(command, deps);
  }
}

type Of<Verb extends ImageCommand['verb']> = Extract<ImageCommand, { verb: Verb }>;

/** An archive is sent; a directory is read by the daemon itself. */
async function load({ source, imageName, json }: Of<'load'>, { socketPath, stdin, stdout }: ImageCommandDeps): Promise<number> {
  const query = new URLSearchParams(imageName === undefined ? {} : { name: imageName });
  const found = source === '-' ? undefined : await lookAt(source);
  if (found?.isDirectory() === true) query.set('path', resolve(source));
  const body = source === '-' ? { body: stdin } : found?.isDirectory() === true ? {} : { body: createReadStream(source) };
  const { images } = await askOnce<ImagesAnswer>(socketPath, {
    method: 'POST',
    path: `/images/load?${query}`,
    ...body,
    ...(found?.isFile() === true ? { bodyBytes: found.size } : {}),
  });
  if (json) stdout.write(`${JSON.stringify(images)}\n`);
  else for (const { id, repoTags } of images) stdout.write(`${[id, ...repoTags].join(' ')}\n`);
  return 0;
}

async function lookAt(source: string) {
  try {
    return await stat(source);
  } catch (err) {
    throw new CriError('invalidArgument', `${source}: cannot be read`, { cause: err });
  }
}

async function pull({ request, quiet, json }: Of<'pull'>, { socketPath, stdout, stderr }: ImageCommandDeps): Promise<number> {
  const display = quiet || json ? undefined : createDisplay(stderr);
  const lines = askDaemon<PullLine | PullAnswer>(socketPath, { method: 'POST', path: '/images/pull', body: JSON.stringify(request) });
  try {
    for await (const line of lines) {
      if (json) stdout.write(`${JSON.stringify(line)}\n`);
      else if ('progress' in line) display?.show(line.progress);
      else {
        display?.end();
        stdout.write(`${line.image.id}\n`);
      }
    }
  } catch (err) {
    display?.end();
    throw err;
  }
  return 0;
}

async function showPulls({ json }: Of<'pulls'>, { socketPath, stdout }: ImageCommandDeps): Promise<number> {
  const { pulls } = await askOnce<PullsAnswer>(socketPath, { method: 'GET', path: '/images/pulls' });
  if (json) stdout.write(`${JSON.stringify(pulls)}\n`);
  else
    for (const pull of pulls)
      for (const line of drawBars(pull, { columns: Number.POSITIVE_INFINITY, rows: Number.POSITIVE_INFINITY })) stdout.write(`${line}\n`);
  return 0;
}

async function list({ quiet, json }: Of<'ls'>, { socketPath, stdout }: ImageCommandDeps): Promise<number> {
  const { images } = await askOnce<ImagesAnswer>(socketPath, { method: 'GET', path: '/images' });
  if (json) stdout.write(`${JSON.stringify(images)}\n`);
  else if (quiet) for (const { id } of images) stdout.write(`${id}\n`);
  else stdout.write(formatImages(images));
  return 0;
}

/** A row for each name, sorted; an image that has only digests left is known by those. */
export function formatImages(images: readonly ImageSummary[]): string {
  const rows = images.flatMap(({ id, repoTags, repoDigests, sizeBytes, pinned }) => {
    const names = repoTags.length > 0 ? repoTags : repoDigests.length > 0 ? repoDigests : ['<none>'];
    return names.map((name) => [name, id.slice(7, 19), `${(sizeBytes / 1024 ** 2).toFixed(1)} MiB`, pinned ? 'pinned' : ''] as const);
  });
  const table = [['NAME', 'ID', 'SIZE', ''] as const, ...rows.sort(([a], [b]) => (a < b ? -1 : 1))];
  const widths = [0, 1, 2].map((column) => Math.max(...table.map((row) => row[column as 0].length)));
  return table
    .map(([name, id, size, pinned]) =>
      `${name.padEnd(widths[0] ?? 0)}  ${id.padEnd(widths[1] ?? 0)}  ${size.padStart(widths[2] ?? 0)}  ${pinned}`.trimEnd().concat('\n'),
    )
    .join('');
}

/** All of them, also after one that fails; the first failure is told at the end. */
async function remove({ names }: Of<'rm'>, { socketPath, stdout, stderr }: ImageCommandDeps): Promise<number> {
  let code = 0;
  const failures: unknown[] = [];
  for (const name of names) {
    try {
      const { removed } = await askOnce<RemoveAnswer>(socketPath, { method: 'POST', path: `/images/remove?${new URLSearchParams({ name })}` });
      if (removed !== null) stdout.write(`${removed}\n`);
      else {
        stderr.write(`berth: image ${name} is not in the store\n`);
        code = 1;
      }
    } catch (err) {
      failures.push(err);
    }
  }
  if (failures.length > 0) throw failures.length === 1 ? failures[0] : new CriError('unknown', failures.map((err) => (err as Error).message).join('; '));
  return code;
}

async function check({ full, repair, json }: Of<'check'>, { socketPath, stdout }: ImageCommandDeps): Promise<number> {
  const query = new URLSearchParams({ ...(full ? { full: '1' } : {}), ...(repair ? { repair: '1' } : {}) });
  let left = 0;
  for await (const line of askDaemon<FindingLine | CheckAnswer>(socketPath, { method: 'POST', path: `/images/check?${query}` })) {
    if ('finding' in line && !line.finding.repaired) left += 1;
    if (json) stdout.write(`${JSON.stringify(line)}\n`);
    else if ('finding' in line) {
      const { kind, what, id, message, images, repaired } = line.finding;
      const cost = images.length === 0 ? '' : ` (${repaired ? 'removed' : 'harms'} ${images.join(', ')})`;
      stdout.write(`${kind} ${what} ${id}: ${message}${cost}${repaired ? ': repaired' : ''}\n`);
    } else {
      const { images, layers, findings } = line.summary;
      stdout.write(
        `checked ${images} images and ${layers} layers${full ? '' : ' without reading their files'}: ${findings === 0 ? 'nothing is wrong' : `${findings} found, ${left} left`}\n`,
      );
    }
  }
  return left === 0 ? 0 : 1;
}
