import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '#base/errors.ts';

/** One call of the fake plugin; see the head of cni-plugin.mjs for what it can be told to do. */
export interface FakeCall {
  readonly verb: string;
  readonly type: string;
  readonly pid: number;
  /** The child that `hang` started. */
  readonly child?: number;
  readonly env: Readonly<Record<string, string>>;
  /** The configuration it read from stdin. */
  readonly conf: Readonly<Record<string, unknown>>;
}

/**
 * Makes the fake plugin executable as `dir/type`, with the Node that runs the test. Makes `dir` too. `versions` are the
 * CNI versions that it says it speaks; `none` for one that does not know VERSION.
 */
export async function installFakePlugin(dir: string, type = 'fake', versions?: string): Promise<string> {
  await mkdir(dir, { recursive: true });
  const path = join(dir, type);
  const program = join(import.meta.dirname, 'cni-plugin.mjs');
  await writeFile(path, `#!/bin/sh\n${versions === undefined ? '' : `FAKE_CNI_VERSIONS='${versions}' `}exec '${process.execPath}' '${program}'\n`, {
    mode: 0o755,
  });
  return path;
}

/** The calls in a `record` file, oldest first; none when there is no file. */
export async function readFakeCalls(record: string): Promise<FakeCall[]> {
  try {
    return (await readFile(record, 'utf8'))
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as FakeCall);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return [];
    throw err;
  }
}
