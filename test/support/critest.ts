import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { sleep } from '#base/abort.ts';
import { CommandError, run } from '#base/exec.ts';
import type { Daemon } from './daemon.ts';
import { conformanceImages, FIXTURES } from './images.ts';
import { findTool } from './tool.ts';

export interface CritestResult {
  readonly passed: number;
  /** Specs that found the machine unfit; those that were not asked for are not counted. */
  readonly skipped: number;
  readonly failed: readonly { readonly name: string; readonly message: string }[];
}

/** The part of ginkgo's JSON report that is used here. */
interface Suite {
  readonly SpecReports: readonly {
    readonly State: string;
    readonly LeafNodeType: string;
    readonly LeafNodeText: string;
    readonly ContainerHierarchyTexts: readonly string[] | null;
    readonly Failure?: { readonly Message: string };
  }[];
}

/**
 * Runs the specs whose names match `focus`. They take the host ports 12000 to 12003, so that one run waits for another.
 * `undefined` where critest is not installed.
 */
export async function runCritest(daemon: Daemon, focus: RegExp): Promise<CritestResult | undefined> {
  const critest = findTool('critest');
  if (critest === undefined) return undefined;
  await using _turn = await takeTurn();
  const offline = join(daemon.directory, 'critest');
  const report = join(daemon.directory, 'critest.json');
  const signal = AbortSignal.timeout(600_000);
  await run(join(FIXTURES, 'patch-digest.py'), [critest, join(await conformanceImages(), 'test-image-digest.txt'), offline], { signal });
  const endpoint = `unix://${daemon.socket}`;
  const args = ['-runtime-endpoint', endpoint, '-image-endpoint', endpoint, '-runtime-service-timeout', '120s', '-image-service-timeout', '120s'];
  const ginkgo = ['-ginkgo.no-color', '-ginkgo.seed', '1', '-ginkgo.focus', focus.source, '-ginkgo.json-report', report];
  try {
    await run(offline, [...args, ...ginkgo], {
      signal,
      cwd: daemon.directory,
      env: { TMPDIR: daemon.directory, HOME: daemon.directory },
      maxOutputBytes: 64 * 1024 ** 2,
    });
  } catch (err) {
    if (!(err instanceof CommandError) || err.exitCode !== 1) throw err; // 1: some spec failed, the report says which
  }
  return summarise(JSON.parse(readFileSync(report, 'utf8')));
}

/** Waits for a name that one process of the machine can have at a time: an abstract unix socket. */
async function takeTurn(): Promise<AsyncDisposable> {
  for (;;) {
    const server = createServer();
    const ours = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen('\0berth-critest', () => resolve(true));
    });
    if (ours) return server;
    await sleep(500);
  }
}

function summarise(suites: readonly Suite[]): CritestResult {
  const specs = suites.flatMap((suite) => suite.SpecReports);
  const failed = specs.filter(({ State }) => !['passed', 'skipped', 'pending'].includes(State));
  return {
    passed: specs.filter(({ State, LeafNodeType }) => State === 'passed' && LeafNodeType === 'It').length,
    skipped: specs.filter(({ State, Failure }) => State === 'skipped' && (Failure?.Message ?? '') !== '').length,
    failed: failed.map(({ ContainerHierarchyTexts, LeafNodeType, LeafNodeText, Failure }) => ({
      name: [...(ContainerHierarchyTexts ?? []), LeafNodeText === '' ? LeafNodeType : LeafNodeText].join(' '),
      message: Failure?.Message ?? '',
    })),
  };
}
