import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, inject, test } from 'vitest';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { startPod } from '../support/pod.ts';
import { findTool } from '../support/tool.ts';
import { until } from '../support/wait.ts';

test("Debian's Prometheus scrapes a daemon at work, and finds its pods, calls and stages", async () => {
  const prometheus = findTool('prometheus');
  if (prometheus === undefined) return;
  const [port, web] = [await freePort(), await freePort()];
  await using daemon = await startDaemon({
    handler: 'crun',
    registry: inject('registry'),
    config: { metrics: { enable_metrics: true, metrics_port: port } },
  });
  await startPod(daemon);
  await using server = await startPrometheus(prometheus, daemon, port, web);

  const ask = async (query: string): Promise<{ metric: Record<string, string>; value: [number, string] }[]> => {
    const response = await fetch(`http://${server.address}/api/v1/query?query=${encodeURIComponent(query)}`);
    const { data } = (await response.json()) as { data: { result: { metric: Record<string, string>; value: [number, string] }[] } };
    return data.result;
  };
  const first = (query: string) =>
    until(query, async () => {
      const [found] = await ask(query).catch(() => []);
      return found;
    });

  expect((await first('up{job="berth"} == 1')).metric.instance).toBe(`127.0.0.1:${port}`);
  expect((await first('berth_rpc_duration_seconds_count{rpc="RunPodSandbox"}')).value[1]).toBe('1');
  expect((await first('berth_pod_start_stage_seconds_count{stage="cni_add"}')).value[1]).toBe('1');
  expect((await first('berth_image_pulls_total{outcome="success"}')).value[1]).toBe('1');
  const version = await daemon.cri.Version();
  expect((await first('berth_build_info')).metric.version).toBe(version.runtime_version);
  const names = (await ask('count by (__name__) ({job="berth"})')).map(({ metric }) => metric.__name__);
  for (const what of ['sandboxes', 'containers', 'images', 'event_loop']) expect(names.filter((name) => name?.includes(what))).not.toEqual([]);
  // ids and names of pods are no labels: their number has no bound
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  expect(text).not.toMatch(/[0-9a-f]{64}|web-/);
});

test('metrics are served on a unix socket as well, and count what is there now', async () => {
  const socketPath = join(tmpdir(), 'metrics.sock');
  {
    await using daemon = await startDaemon({
      handler: 'crun',
      registry: inject('registry'),
      config: { metrics: { enable_metrics: true, metrics_port: 0, metrics_socket: socketPath } },
    });
    await startPod(daemon);
    const { podId, containerId } = await startPod(daemon);
    await daemon.cri.StopContainer({ container_id: containerId, timeout: '0' });
    await daemon.cri.StopPodSandbox({ pod_sandbox_id: podId });
    const text = await get(socketPath, '/metrics');
    expect(text).toMatch(/^berth_sandboxes\{state="ready"\} 1$/m);
    expect(text).toMatch(/^berth_sandboxes\{state="notready"\} 1$/m);
    expect(text).toMatch(/^berth_containers\{state="running"\} 1$/m);
    expect(text).toMatch(/^berth_containers\{state="exited"\} 1$/m);
    expect(text).toMatch(/^berth_images 1$/m);
  }
  expect(existsSync(socketPath)).toBe(false);
});

function get(socketPath: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () => resolve(text));
    });
    asked.on('error', reject);
    asked.end();
  });
}

interface Server extends AsyncDisposable {
  readonly address: string;
}

async function startPrometheus(path: string, { directory }: Daemon, port: number, web: number): Promise<Server> {
  const home = join(directory, 'prometheus');
  mkdirSync(home);
  const config = join(home, 'prometheus.yml');
  writeFileSync(config, `global: {scrape_interval: 1s}\nscrape_configs: [{job_name: berth, static_configs: [{targets: ['127.0.0.1:${port}']}]}]\n`);
  const log = openSync(join(home, 'log'), 'a');
  const child: ChildProcess = spawn(path, [`--config.file=${config}`, `--storage.tsdb.path=${home}/data`, `--web.listen-address=127.0.0.1:${web}`], {
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  return {
    address: `127.0.0.1:${web}`,
    [Symbol.asyncDispose]: async () => {
      const exit = new Promise((resolve) => child.once('exit', resolve));
      if (child.exitCode !== null) return;
      child.kill('SIGKILL');
      await exit;
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(address !== null && typeof address === 'object' ? address.port : 0));
    });
  });
}
