import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtempDisposable, readdir, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { sleep } from '#base/abort.ts';

const root = join(import.meta.dirname, '../../..');
const nodeDir = dirname(process.execPath);
const stack = new AsyncDisposableStack();
let dist = '';

beforeAll(async () => {
  const dir = stack.use(await mkdtempDisposable(join(tmpdir(), 'berth-build-')));
  dist = join(dir.path, 'dist');
  const { code, stderr } = await run(process.execPath, [join(root, 'contrib/build.ts'), dist]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
});

afterAll(() => stack.disposeAsync());

/** Started with the least environment: the launcher has to find Node on PATH, since no node_modules is near. */
function start(file: string, args: readonly string[], env: Record<string, string> = {}) {
  const mark = process.env.BERTH_TEST_MARK;
  const path = `${nodeDir}:/usr/sbin:/usr/bin:/sbin:/bin`;
  return spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: path, ...(mark === undefined ? {} : { BERTH_TEST_MARK: mark }), ...env } });
}

async function run(file: string, args: readonly string[]) {
  const child = start(file, args);
  const [[code], stdout, stderr] = await Promise.all([once(child, 'close'), text(child.stdout), text(child.stderr)]);
  return { code: code as number | null, stdout, stderr };
}

const berth = (...args: string[]) => run(join(dist, 'berth'), args);

test('berth version works away from the tree', async () => {
  expect(await berth('version')).toMatchObject({ code: 0, stdout: expect.stringMatching(/^berth \d+\.\d+\.\d+ \(node 2[6-9]/), stderr: '' });
});

test('berth exits with 2 and names the command it does not know', async () => {
  expect(await berth('demon')).toEqual({ code: 2, stdout: '', stderr: 'berth: unknown command: demon; did you mean daemon?\nSee: berth help\n' });
});

test('berth exits with 1 and shows every problem of its configuration, for a daemon too', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-build-'));
  const path = join(dir.path, 'b.conf');
  await writeFile(path, '[berth]\nroot = x\n[api]\nlisten = y\n');
  const stderr = `berth: ${path}:2: [berth] root: "x" is not an absolute path\n${path}:4: [api] listen: "y" is not an absolute path\n`;
  expect(await berth('config', '--config', path)).toEqual({ code: 1, stdout: '', stderr });
  expect(await berth('daemon', '--config', path)).toEqual({ code: 1, stdout: '', stderr });
});

test('berth image load says that no daemon is there', async () => {
  expect(await berth('image', 'load', root, '--set', 'berth.runroot=/nonexistent')).toEqual({
    code: 1,
    stdout: '',
    stderr: expect.stringContaining('no daemon listens on /nonexistent/admin.sock'),
  });
});

test('berth daemon tells systemd that it is ready, alive and stopping, serves, and exits with 0 on SIGTERM', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-build-'));
  const socket = join(dir.path, 'notify');
  const manager = spawn('socat', ['-u', `UNIX-RECV:${socket}`, 'STDOUT'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const managerEnded = once(manager, 'close');
  let heard = '';
  manager.stdout.on('data', (chunk: Buffer) => {
    heard += chunk;
  });
  while ((await stat(socket).catch(() => undefined)) === undefined) await sleep(5);
  await mkdir(join(dir.path, 'net.d'));
  const settings = { 'berth.root': 'root', 'berth.runroot': 'run', 'runtime.namespaces_dir': 'ns', 'network.network_dir': 'net.d' };
  const sets = Object.entries(settings).flatMap(([key, name]) => ['--set', `${key}=${join(dir.path, name)}`]);
  const daemon = start(join(dist, 'berth'), ['daemon', ...sets], { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '2000000' });
  const daemonEnded = once(daemon, 'close');
  daemon.stdout.resume();
  daemon.stderr.resume();
  try {
    await expect.poll(() => heard, { timeout: 30_000 }).toMatch(/^READY=1\nMAINPID=\d+WATCHDOG=1/);
    expect(heard).toContain(`MAINPID=${daemon.pid}`);
    const { stdout } = await run(process.execPath, [join(dist, 'cri-call.js'), join(dir.path, 'run/berth.sock'), 'Version', '{}', 'runtime_name']);
    expect(stdout).toBe('berth\n');
    daemon.kill('SIGHUP');
    daemon.kill('SIGTERM');
    expect(await daemonEnded).toEqual([0, null]);
    await expect.poll(() => heard).toMatch(/STOPPING=1$/);
    expect((await readdir(join(dir.path, 'run'))).filter((name) => name.endsWith('.sock'))).toEqual([]);
  } finally {
    daemon.kill('SIGKILL');
    manager.kill();
    await Promise.all([daemonEnded, managerEnded]);
  }
});
