import { expect, test } from 'vitest';
import { createMetrics, POD_STAGES } from '../../../../server/metrics/metrics.ts';

const states = {
  containers: () => ({ created: 1, running: 2, exited: 3, unknown: 0 }),
  sandboxes: () => ({ ready: 4, notready: 5, unknown: 0 }),
  images: () => 6,
  detachPending: () => 7,
  networkReady: () => true,
};

test('createMetrics() counts what it is told', async () => {
  using metrics = createMetrics({ version: '1.2.3' });
  metrics.observeRpc('RunPodSandbox', 'OK', 0.03);
  metrics.observeRpc('RunPodSandbox', 'DEADLINE_EXCEEDED', 100);
  metrics.observeStage('cni_add', 0.02);
  metrics.observeCni({ verb: 'ADD', plugin: 'bridge', ok: true }, 0.01);
  metrics.observeCni({ verb: 'DEL', plugin: 'bridge', ok: false }, 0.01);
  metrics.observePull('success', 3);
  metrics.observePull('notFound', 3);
  metrics.countPullBytes(1000);
  metrics.countPullBytes(24);
  metrics.countPullRetries(2);
  metrics.countOom();
  const text = await metrics.registry.metrics();
  for (const line of [
    'berth_rpc_duration_seconds_bucket{le="0.05",rpc="RunPodSandbox",code="OK"} 1',
    'berth_rpc_duration_seconds_count{rpc="RunPodSandbox",code="DEADLINE_EXCEEDED"} 1',
    'berth_pod_start_stage_seconds_bucket{le="0.025",stage="cni_add"} 1',
    'berth_cni_duration_seconds_count{verb="ADD",plugin="bridge",result="success"} 1',
    'berth_cni_duration_seconds_count{verb="DEL",plugin="bridge",result="failure"} 1',
    'berth_image_pulls_total{outcome="success"} 1',
    'berth_image_pulls_total{outcome="failure"} 1',
    'berth_image_pulls_total{outcome="cancelled"} 0',
    'berth_image_pull_failures_total{reason="not_found"} 1',
    'berth_image_pull_failures_total{reason="unreachable"} 0',
    'berth_image_pull_bytes_total 1024',
    'berth_image_pull_retries_total 2',
    'berth_image_pull_duration_seconds_sum 3',
    'berth_container_oom_total 1',
    `berth_build_info{version="1.2.3",node="${process.versions.node}"} 1`,
  ]) {
    expect(text.split('\n')).toContain(line);
  }
});

test('createMetrics() shows every stage and outcome before it happens first', async () => {
  using metrics = createMetrics({ version: '1' });
  const text = await metrics.registry.metrics();
  for (const stage of POD_STAGES) expect(text).toContain(`berth_pod_start_stage_seconds_count{stage="${stage}"} 0`);
});

test('collectFrom() asks at every scrape, and not in between', async () => {
  using metrics = createMetrics({ version: '1' });
  let asked = 0;
  metrics.collectFrom({ ...states, pulls: () => 3, images: () => (asked += 1) });
  expect(asked).toBe(0);
  const text = await metrics.registry.metrics();
  expect(text).toContain('berth_containers{state="running"} 2');
  expect(text).toContain('berth_sandboxes{state="notready"} 5');
  expect(text).toContain('berth_cni_detach_pending 7');
  expect(text).toContain('berth_images 1');
  expect(text).toContain('berth_image_pulls_in_flight 3');
  expect(await metrics.registry.metrics()).toContain('berth_images 2');
});

test('the process is measured', async () => {
  using metrics = createMetrics({ version: '1' });
  const value = async (name: string): Promise<number> => Number(new RegExp(`^${name} (.*)$`, 'm').exec(await metrics.registry.metrics())?.[1]);
  expect(await value('process_start_time_seconds')).toBeCloseTo(performance.timeOrigin / 1000, 3);
  expect(await value('process_resident_memory_bytes')).toBeGreaterThan(10_000_000);
  expect(await value('process_open_fds')).toBeGreaterThan(3);
  expect(await value('process_cpu_seconds_total')).toBeGreaterThan(0);
  expect(await value('berth_event_loop_active_seconds_total')).toBeGreaterThan(0);
  expect(await value('berth_event_loop_turn_p99_seconds')).toBeGreaterThanOrEqual(0);
});

test('a turn of the event loop that took long shows at the next scrape, and not at the one after', async () => {
  using metrics = createMetrics({ version: '1' });
  const longest = async (): Promise<number> => Number(/^berth_event_loop_turn_max_seconds (.*)$/m.exec(await metrics.registry.metrics())?.[1]);
  await new Promise((resolve) => setImmediate(resolve));
  await longest();
  const until = performance.now() + 200;
  await new Promise<void>((resolve) =>
    setImmediate(() => {
      while (performance.now() < until);
      resolve();
    }),
  );
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setTimeout(resolve, 1));
  const blocked = await longest();
  expect(blocked).toBeGreaterThan(0.1);
  await new Promise((resolve) => setTimeout(resolve, 1));
  expect(await longest()).toBeLessThan(blocked);
});

test('two metrics do not share anything', async () => {
  using one = createMetrics({ version: '1' });
  using two = createMetrics({ version: '2' });
  one.countOom();
  expect(await two.registry.metrics()).toContain('berth_container_oom_total 0');
});

test('what checks of the store find is counted by kind', async () => {
  using metrics = createMetrics({ version: '1' });
  metrics.countStoreFinding('altered');
  const text = await metrics.registry.metrics();
  expect(text).toContain('berth_store_findings_total{kind="altered"} 1');
  expect(text).toContain('berth_store_findings_total{kind="orphaned"} 0');
});
