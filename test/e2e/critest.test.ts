import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, inject, test } from 'vitest';
import { runCritest } from '../support/critest.ts';
import { type Handler, startDaemon } from '../support/daemon.ts';
import { CACHE, findTool } from '../support/tool.ts';

/** First words of the names of the specs that must pass: all but the benchmarks. */
const GROUPS = [
  'AppArmor',
  'Container',
  'Idempotence',
  'Image Consistency',
  'Image Identifier Consistency',
  'Image Manager',
  'Multiple Containers',
  'Networking',
  'PodSandbox',
  'Runtime info',
  'Security Context',
  'Streaming',
];
const focus = new RegExp(`\\[k8s\\.io\\] (${GROUPS.join('|')})`);

test.each<Handler>(['crun', 'runc'])(
  'critest passes with %s',
  async (handler) => {
    await using daemon = await startDaemon({ handler, registry: inject('registry') });
    const result = await runCritest(daemon, focus);
    if (result === undefined) {
      expect.soft(process.env.REQUIRE_ROOT).not.toBe('1');
      return;
    }
    const results = process.env.BERTH_TEST_RESULTS ?? join(CACHE, 'results');
    mkdirSync(results, { recursive: true });
    writeFileSync(join(results, `critest-${handler}.json`), JSON.stringify(result));
    expect(result.failed).toEqual([]);
    expect(result.passed).toBeGreaterThan(80);
  },
  900_000,
);

test.skipIf(findTool('runc-new') === undefined)(
  'critest passes its user namespaces with a runc that knows them',
  async () => {
    const runtime = { 'runtime.runtimes.newer': { runtime_path: findTool('runc-new') ?? '' } };
    await using daemon = await startDaemon({ handler: 'runc', registry: inject('registry'), config: { runtime: { default_runtime: 'newer' }, ...runtime } });
    const result = await runCritest(daemon, /UserNamespaces/);
    if (result === undefined) {
      expect.soft(process.env.REQUIRE_ROOT).not.toBe('1');
      return;
    }
    const results = process.env.BERTH_TEST_RESULTS ?? join(CACHE, 'results');
    mkdirSync(results, { recursive: true });
    writeFileSync(join(results, 'critest-userns.json'), JSON.stringify(result));
    expect(result).toMatchObject({ failed: [], skipped: 0, passed: 6 });
  },
  600_000,
);
