import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempDisposable, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CommandError, run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { createMetrics, type Metrics } from '../../../../server/metrics/metrics.ts';
import { serveMetrics } from '../../../../server/metrics/server.ts';
import { findTool } from '../../../support/tool.ts';
import { until } from '../../../support/wait.ts';

const prometheus = findTool('prometheus');
const promtool = findTool('promtool');

/** Metrics of a daemon that has worked a little. */
function usedMetrics(): Metrics {
  const metrics = createMetrics({ version: '1.2.3' });
  metrics.collectFrom({
    containers: () => ({ created: 0, running: 2, exited: 1, unknown: 0 }),
    sandboxes: () => ({ ready: 1, notready: 0, unknown: 0 }),
    images: () => 3,
    pulls: () => 0,
    detachPending: () => 0,
    networkReady: () => true,
  });
  for (let i = 1; i <= 20; i += 1) metrics.observeRpc('RunPodSandbox', 'OK', i / 100);
  metrics.observeRpc('CreateContainer', 'INVALID_ARGUMENT', 0.001);
  metrics.observeStage('cni_add', 0.02);
  metrics.observeCni({ verb: 'ADD', plugin: 'bridge', ok: true }, 0.02);
  metrics.observePull('success', 2);
  return metrics;
}

test.skipIf(promtool === undefined)('what is served is without fault for promtool', async () => {
  using metrics = usedMetrics();
  const input = await metrics.registry.metrics();
  const checked = await run(promtool ?? '', ['check', 'metrics'], { signal: AbortSignal.timeout(30_000), input }).catch((err: unknown) => err);
  if (checked instanceof CommandError) expect(checked.stdout + checked.stderr).toBe('');
  expect(checked).toEqual({ stdout: '', stderr: '' });
});

test.skipIf(prometheus === undefined)('Prometheus scrapes the daemon and answers questions about it', async () => {
  using metrics = usedMetrics();
  await using served = await serveMetrics({ registry: metrics.registry, host: '127.0.0.1', port: 0, socket: '', resources: {}, log: silentLog });
  await using server = await startPrometheus(served.address);
  await until('the target to be up', async () => (await server.query('up{job="berth"}'))[0] === 1);

  expect(await server.query('berth_containers{state="running"}')).toEqual([2]);
  expect(await server.query('berth_images')).toEqual([3]);
  expect(await server.query('berth_build_info{version="1.2.3"}')).toEqual([1]);
  expect(await server.query('sum(berth_rpc_duration_seconds_count)')).toEqual([21]);
  const [median = 0] = await server.query('histogram_quantile(0.5, sum by (le) (berth_rpc_duration_seconds_bucket{rpc="RunPodSandbox"}))');
  expect(median).toBeGreaterThan(0.05);
  expect(median).toBeLessThan(0.25);
  expect(await server.query('berth_pod_start_stage_seconds_count{stage="cni_add"}')).toEqual([1]);
  expect(await server.query('berth_image_pulls_total{outcome="success"}')).toEqual([1]);
  expect(await server.query('count(process_resident_memory_bytes{job="berth"} > 1e6)')).toEqual([1]);

  metrics.countOom();
  await until('the next scrape', async () => (await server.query('berth_container_oom_total'))[0] === 1);
});

/** A Prometheus with its data in a temporary directory that scrapes `target` every second. */
async function startPrometheus(target: string) {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await mkdtempDisposable(join(tmpdir(), 'berth-prometheus-')));
  const config = { global: { scrape_interval: '1s' }, scrape_configs: [{ job_name: 'berth', static_configs: [{ targets: [target] }] }] };
  await writeFile(join(dir, 'prometheus.yml'), JSON.stringify(config)); // JSON is YAML
  const port = await freePort();
  const child = spawn(
    prometheus ?? '',
    [`--config.file=${join(dir, 'prometheus.yml')}`, `--storage.tsdb.path=${join(dir, 'data')}`, `--web.listen-address=127.0.0.1:${port}`, '--log.level=error'],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  const ended = once(child, 'exit');
  stack.defer(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const url = `http://127.0.0.1:${port}`;
  await until('Prometheus to be ready', async () => {
    if (child.exitCode !== null) throw new Error(`prometheus ended with exit code ${child.exitCode}`);
    return fetch(`${url}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  });
  const kept = stack.move();
  return {
    /** The values that an expression has now. */
    query: async (expression: string): Promise<number[]> => {
      const response = await fetch(`${url}/api/v1/query?query=${encodeURIComponent(expression)}`);
      const answer = (await response.json()) as { status: string; error?: string; data?: { result: { value: [number, string] }[] } };
      if (answer.status !== 'success') throw new Error(`${expression}: ${answer.error}`);
      return (answer.data?.result ?? []).map(({ value }) => Number(value[1]));
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** Prometheus cannot be asked which port it has taken, so one is tried out first. */
async function freePort(): Promise<number> {
  await using probe = createServer();
  probe.listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const address = probe.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}
