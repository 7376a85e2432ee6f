import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, isErrno, quote } from '#base/errors.ts';
import { readCgroupFile } from './cgroup-file.ts';
import type { CgroupHierarchy } from './cgroup-hierarchy.ts';
import { CRUN_SUBGROUP } from './cgroup-stats.ts';

/** What those of a container's files hold that are there; names such as `memory.max`, of the hierarchy's version. */
export async function readLimits(
  hierarchy: CgroupHierarchy,
  path: string,
  files: Iterable<readonly [file: string, unknown]>,
): Promise<ReadonlyMap<string, string>> {
  const held = new Map<string, string>();
  for (const [file] of files) {
    const content = await read(hierarchy, path, file);
    if (content !== undefined) held.set(file, content);
  }
  return held;
}

/**
 * Writes files of a container, in their order; what has its content already, or is `undefined`, is left alone. A limit may
 * have to wait for another one (version 1 wants memory below memory and swap at any time): what is refused is tried once
 * more after the others.
 * @throws {CriError} `invalidArgument` for the first content that the kernel refuses to the end.
 */
export async function setLimits(hierarchy: CgroupHierarchy, path: string, files: ReadonlyMap<string, string | undefined>): Promise<void> {
  const refused: [string, string][] = [];
  for (const [file, content] of files) {
    if (content === undefined || content === (await read(hierarchy, path, file))) continue;
    await write(hierarchy, path, file, content).catch(() => refused.push([file, content]));
  }
  for (const [file, content] of refused) {
    await write(hierarchy, path, file, content).catch((err: unknown) => {
      if (content === '0' && isErrno(err, 'ENOENT')) return; // none of what is not there, such as huge pages without their controller
      throw new CriError('invalidArgument', `${file}: the kernel refuses ${quote(content)}`, { cause: err });
    });
  }
}

async function read(hierarchy: CgroupHierarchy, path: string, file: string): Promise<string | undefined> {
  return (await readCgroupFile(dirOf(hierarchy, path, file), file))?.trim();
}

/** An empty cpuset is written as an empty line: no bytes at all would be no write. */
async function write(hierarchy: CgroupHierarchy, path: string, file: string, content: string): Promise<void> {
  await writeFile(join(dirOf(hierarchy, path, file), file), content === '' ? '\n' : content, { flag: 'r+' });
}

/** Where the file is that limits the container's processes. */
function dirOf({ version, mounts }: CgroupHierarchy, path: string, file: string): string {
  if (version === 1) return join(mounts.get(file.split('.', 1)[0] ?? '') ?? '/nonexistent', path);
  const scope = join(mounts.get('unified') ?? '', path);
  const below = join(scope, CRUN_SUBGROUP);
  return existsSync(join(below, file)) ? below : scope;
}
