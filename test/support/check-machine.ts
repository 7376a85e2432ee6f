// A setup file of vitest, for tests that need root: after each test file the machine must be as it was before.
import { appendFileSync, mkdirSync, readlinkSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import { sleep } from '#base/abort.ts';
import { isErrno } from '#base/errors.ts';
import { leftovers, type Machine, snapshot } from './machine.ts';
import { mark } from './mark.ts';
import { sweep } from './sweep.ts';

/** What ends on its own, such as a process that has just been killed, may take so long. */
const SETTLE_MS = 10_000;

const isRoot = process.getuid?.() === 0;
// A file's own mark, also where a worker runs several files.
delete process.env.BERTH_TEST_MARK;
process.env.BERTH_TEST_TMPDIR ??= tmpdir();
const scope = { mark: mark(), directory: join(process.env.BERTH_TEST_TMPDIR, mark()), alone: process.env.BERTH_TEST_ALONE === '1' };
process.env.TMPDIR = scope.directory;
let before: Machine | undefined;

beforeAll(async () => {
  // Plugins of CNI keep chains of their own for good; they must go with the run.
  if (isRoot && readlinkSync('/proc/self/ns/net') !== process.env.BERTH_TEST_NETWORK) {
    throw new Error('these tests must not touch the network of the machine: run them by npm run, or by test/own-network');
  }
  mkdirSync(scope.directory, { mode: 0o755 });
  const { BERTH_TEST_RESULTS: results } = process.env;
  if (results !== undefined) appendFileSync(join(results, 'marks'), `${scope.mark} ${scope.directory}\n`);
  if (isRoot) before = await snapshot(scope.directory);
  else if (process.env.REQUIRE_ROOT === '1') throw new Error('these tests need root, and REQUIRE_ROOT=1 forbids to skip them');
});

beforeEach(({ skip }) => {
  if (!isRoot) skip('needs root');
});

afterAll(async () => {
  if (before === undefined) {
    removeDirectory();
    return;
  }
  const deadline = performance.now() + SETTLE_MS;
  let after = await snapshot(scope.directory);
  while (leftovers(before, after, scope).length > 0 && performance.now() < deadline) {
    await sleep(250);
    after = await snapshot(scope.directory);
  }
  const left = leftovers(before, after, scope);
  if (left.length > 0) {
    await sweep(after, scope);
    throw new Error(`left behind on the machine:\n${left.join('\n')}`);
  }
  removeDirectory();
});

function removeDirectory(): void {
  try {
    rmdirSync(scope.directory);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}
