import { chmod, mkdir, mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { userNamespaceProblem } from '../../../../server/sandbox/user-namespace.ts';

test('userNamespaceProblem() names a directory that the root user of a user namespace could not get through', async () => {
  await using temporary = await mkdtempDisposable(join(tmpdir(), 'userns-'));
  const root = join(temporary.path, 'root');
  await mkdir(root, { mode: 0o755 });
  await chmod(temporary.path, 0o700);
  expect(await userNamespaceProblem({ root, runroot: '/' }, AbortSignal.timeout(30_000))).toBe(
    `${temporary.path} may not be searched by others, which the root user of a pod's user namespace is`,
  );
});
