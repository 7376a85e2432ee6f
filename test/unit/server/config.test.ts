import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Host } from '../../../server/config/host.ts';
import { type Config, defaults, effectiveConfig, loadConfig, parseConfig, referenceHost } from '../../../server/config.ts';

const parse = (text: string, host: Host = referenceHost): Config => parseConfig([{ path: '/c', text }], { host });

const problemsOf = (work: () => unknown): string[] => {
  try {
    work();
  } catch (err) {
    expect(err).toMatchObject({ name: 'CriError', kind: 'invalidArgument' });
    return (err as Error).message.split('\n');
  }
  return [];
};

const hostWith = (...programs: string[]): Host => ({
  systemd: false,
  findProgram: (name) => programs.find((path) => path.endsWith(`/${name}`)),
  isExecutable: (path) => programs.includes(path),
  isFile: () => false,
});

test('parseConfig() gives the defaults when nothing is set', () => {
  expect(parse('')).toEqual(defaults);
  expect(parse('[berth]\n# root = /x\n; root = /y\n')).toEqual(defaults);
});

test('parseConfig() reads each kind of value', () => {
  const config = parse(`
[berth]
root = /srv/berth/ # comment
log_level = debug
[api]
listen = unix:///tmp/x.sock
grpc_max_recv_msg_size = 16MiB
grpc_max_send_msg_size = 2000000
[runtime]
drop_infra_ctr = true
default_capabilities = CHOWN, cap_kill ,CHOWN
default_sysctls = net.ipv4.ping_group_range=0 0, kernel/shm_rmid_forced=1
default_env[] = A=1,2
default_env[] = "B=x # y"
creation_timeout = 1h30m
unclaimed_timeout = 90
[image]
pause_command = /pause -x
pull_progress_timeout = 1500ms
`);
  expect(config.root).toBe('/srv/berth');
  expect(config.logLevel).toBe('debug');
  expect(config.api).toMatchObject({ listen: '/tmp/x.sock', grpcMaxRecvMsgSize: 16 * 1024 * 1024, grpcMaxSendMsgSize: 2_000_000 });
  expect(config.runtime).toMatchObject({
    dropInfraCtr: true,
    defaultCapabilities: ['CAP_CHOWN', 'CAP_KILL'],
    defaultSysctls: { 'net.ipv4.ping_group_range': '0 0', 'kernel.shm_rmid_forced': '1' },
    defaultEnv: ['A=1,2', 'B=x # y'],
    creationTimeoutMs: 5_400_000,
    unclaimedTimeoutMs: 90_000,
  });
  expect(config.image).toMatchObject({ pauseCommand: ['/pause', '-x'], pullProgressTimeoutMs: 1_500 });
});

test('parseConfig() serves streams on loopback unless told otherwise, and wants the files of TLS together', () => {
  expect(parse('').api).toMatchObject({ streamAddress: '127.0.0.1', streamPort: 0, streamEnableTls: false, streamIdleTimeoutMs: 14_400_000 });
  const text = '[api]\nstream_enable_tls = true\nstream_tls_cert = /c.pem\nstream_address = localhost';
  expect(problemsOf(() => parse(text))).toEqual([
    '/c:2: [api] stream_tls_key: must be set with stream_enable_tls',
    '/c:4: [api] stream_address: "localhost" is not an IP address',
  ]);
  const noFile = { ...referenceHost, isFile: (path: string) => path !== '/c.pem' };
  expect(problemsOf(() => parse('[api]\nstream_tls_ca = /c.pem', noFile))).toEqual(['/c:2: [api] stream_tls_ca: /c.pem is not a file']);
});

test('parseConfig() derives from runroot what lies below it', () => {
  const { api, runtime } = parse('[berth]\nrunroot = /run/other');
  expect(api.listen).toBe('/run/other/berth.sock');
  expect(runtime.runtimes.crun?.runtimeRoot).toBe('/run/other/runtimes/crun');
});

test('parseConfig() reports every problem with its line, in order', () => {
  const problems = problemsOf(() =>
    parse(`lonely = 1
[berth]
rot = /x
root = data
[crio.runtime]
anything = 1
[runtime]
cgroup_manager = cgroups
pids_limit = -1
pids_limit = 3
what is this
default_capabilities[] = SYS_ADMIN
default_capabilities[] = TIME_TRAVEL
network_dir = /x
creation_timeout = 3 days
default_runtime[] = crun
[metrics]
metrics_port = 70000
[runtime.runtimes.Kata]
[api]
listen = /${'x'.repeat(107)}`),
  );
  expect(problems).toEqual([
    '/c:1: lonely stands before any [section]',
    '/c:3: [berth] rot: unknown key; did you mean root?',
    '/c:4: [berth] root: "data" is not an absolute path',
    '/c:5: [crio.runtime]: unknown section; did you mean [runtime]?',
    '/c:8: [runtime] cgroup_manager: "cgroups" is not one of systemd, cgroupfs',
    '/c:9: [runtime] pids_limit: "-1" is not a whole number from 0 to 4194304',
    '/c:10: [runtime] pids_limit: is set twice, first in line 9',
    '/c:11: neither "[section]" nor "key = value"',
    '/c:13: [runtime] default_capabilities: "TIME_TRAVEL" is not a capability',
    '/c:14: [runtime] network_dir: unknown key; it belongs in [network]',
    '/c:15: [runtime] creation_timeout: "3 days" is not a duration such as 240s, 4m or 1h30m',
    '/c:16: [runtime] default_runtime: is not a list: write it without []',
    '/c:18: [metrics] metrics_port: "70000" is not a whole number from 0 to 65535',
    '/c:19: [runtime.runtimes.Kata]: "Kata" is not a handler name (lower-case letters, digits and dashes)',
    expect.stringMatching(/^\/c:21: \[api\] listen: .* has 108 bytes; the path of a socket may have 107$/),
  ]);
});

test.each([
  ['kernel.shm_rmid_forced=1', { 'kernel.shm_rmid_forced': '1' }],
  ['net/ipv4/ip_forward = 1', { 'net.ipv4.ip_forward': '1' }],
  ['net/ipv4/conf/eth0.100/forwarding=1', { 'net/ipv4/conf/eth0.100/forwarding': '1' }],
  ['net.ipv4.conf.eth0/100.forwarding=1', { 'net/ipv4/conf/eth0.100/forwarding': '1' }],
])('default_sysctls takes %s', (item, expected) => {
  expect(parse(`[runtime]\ndefault_sysctls = ${item}`).runtime.defaultSysctls).toEqual(expected);
});

test.each([
  ['vm.swappiness=10', 'is no sysctl of a namespace'],
  ['kernel.hostname=evil', 'is no sysctl of a namespace'],
  ['net/../kernel/core_pattern=x', 'is no sysctl of a namespace'],
  ['net.ipv4.ip_forward', 'is not name=value'],
  ['net.core.somaxconn=1é2', 'is not one line of text'],
])('default_sysctls refuses %j', (item, why) => {
  expect(problemsOf(() => parse(`[runtime]\ndefault_sysctls = ${item}`))).toEqual([expect.stringMatching(`^/c:2: \\[runtime\\] default_sysctls: .* ${why}$`)]);
});

test.each([
  ['runtime', 'cgroup_manger', 'did you mean cgroup_manager?'],
  ['runtime', 'defualt_runtime', 'did you mean default_runtime?'],
  ['network', 'plugin_dir', 'did you mean plugin_dirs?'],
  ['berth', 'metric_port', 'did you mean metrics_port in [metrics]?'],
])('parseConfig() suggests the key meant by [%s] %s', (section, key, hint) => {
  expect(problemsOf(() => parse(`[${section}]\n${key} = 1`))).toEqual([`/c:2: [${section}] ${key}: unknown key; ${hint}`]);
});

test('parseConfig() suggests nothing when nothing is near', () => {
  expect(problemsOf(() => parse('[berth]\nzzz = 1'))).toEqual(['/c:2: [berth] zzz: unknown key']);
});

test('parseConfig() takes runc as the default, and drops crun, when only runc is there', () => {
  const { runtime } = parse('', hostWith('/sbin/runc', '/bin/conmon'));
  expect(runtime).toMatchObject({ defaultRuntime: 'runc', cgroupManager: 'cgroupfs', conmon: '/bin/conmon' });
  expect(Object.keys(runtime.runtimes)).toEqual(['runc']);
});

test('parseConfig() refuses a machine without a runtime and without conmon', () => {
  expect(problemsOf(() => parse('', hostWith()))).toEqual([
    'defaults: [runtime] default_runtime: neither crun nor runc is on PATH and no [runtime.runtimes.NAME] is set',
    'defaults: [runtime] conmon: /usr/bin/conmon is not an executable file',
  ]);
});

test('parseConfig() adds configured handlers to the built-in ones, and refuses those without a program', () => {
  const host = hostWith('/bin/crun', '/bin/conmon', '/bin/youki');
  const { runtimes } = parse(
    '[runtime.runtimes.youki]\nprivileged_without_host_devices = true\nallowed_annotations = run.oci.*, a/b\nexec_cpu_affinity = first\ncontainer_min_memory = 32MiB',
    host,
  ).runtime;
  expect(runtimes).toEqual({
    crun: {
      runtimePath: '/bin/crun',
      runtimeRoot: '/run/berth/runtimes/crun',
      privilegedWithoutHostDevices: false,
      allowedAnnotations: [],
      execCpuAffinity: '',
      containerMinMemoryBytes: 512 * 1024,
    },
    youki: {
      runtimePath: '/bin/youki',
      runtimeRoot: '/run/berth/runtimes/youki',
      privilegedWithoutHostDevices: true,
      allowedAnnotations: ['run.oci.*', 'a/b'],
      execCpuAffinity: 'first',
      containerMinMemoryBytes: 32 * 1024 ** 2,
    },
  });
  expect(problemsOf(() => parse('[runtime]\ndefault_runtime = runc\n[runtime.runtimes.kata]\n[runtime.runtimes.runc]\nruntime_path = /nowhere', host))).toEqual(
    [
      '/c:3: [runtime.runtimes.kata] runtime_path: there is no program kata on PATH',
      '/c:5: [runtime.runtimes.runc] runtime_path: /nowhere is not an executable file',
    ],
  );
});

test('parseConfig() knows the least memory of a handler by its name, unless it is told', () => {
  const host = hostWith('/bin/crun', '/bin/runc', '/bin/conmon', '/bin/youki');
  const { runtimes } = parse('[runtime.runtimes.youki]\n[runtime.runtimes.crun]\ncontainer_min_memory = 0', host).runtime;
  expect(Object.entries(runtimes).map(([name, { containerMinMemoryBytes }]) => [name, containerMinMemoryBytes])).toEqual([
    ['crun', 0],
    ['runc', 12 * 1024 ** 2],
    ['youki', 12 * 1024 ** 2],
  ]);
  expect(problemsOf(() => parse('[runtime.runtimes.youki]\ncontainer_min_memory = some', host))).toEqual([
    '/c:2: [runtime.runtimes.youki] container_min_memory: "some" is not a size such as 16MiB',
  ]);
});

test('parseConfig() reads default_ulimits as docker writes them', () => {
  expect(parse('[runtime]\ndefault_ulimits = nofile=1024:4096, core=0').runtime.defaultUlimits).toEqual([
    { type: 'RLIMIT_NOFILE', soft: 1024, hard: 4096 },
    { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
  ]);
  expect(problemsOf(() => parse('[runtime]\ndefault_ulimits = nofiles=1, nofile=2:1, nofile'))).toEqual([
    expect.stringContaining('[runtime] default_ulimits: "nofiles=1" is none of as, core'),
  ]);
});

test('parseConfig() refuses a default runtime that is no handler', () => {
  expect(problemsOf(() => parse('[runtime]\ndefault_runtime = kata'))).toEqual(['/c:2: [runtime] default_runtime: "kata" is none of the handlers crun, runc']);
});

test('parseConfig() refuses overrides like file lines', () => {
  const overrides = { 'berth.log_level': 'loud', 'berth.runrot': '/x', nothing: '1', 'api.listen': '/ok' };
  expect(problemsOf(() => parseConfig([], { overrides, host: referenceHost }))).toEqual([
    'command line: [berth] runrot: unknown key; did you mean runroot?',
    'command line: nothing: is not section.key',
    'command line: [berth] log_level: "loud" is not one of debug, info, warn, error',
  ]);
});

test('loadConfig() reads drop-ins in the order of their names, and the last one wins', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'berth-config-'));
  const path = join(dir.path, 'b.conf');
  await mkdir(`${path}.d`);
  await writeFile(path, '[image]\npinned_images = a, b\n[network]\nplugin_dirs[] = /a\nplugin_dirs[] = /b\n[metrics]\nmetrics_port = 1\n');
  await writeFile(`${path}.d/20-last.conf`, '[metrics]\nmetrics_port = 3\n');
  await writeFile(`${path}.d/10-first.conf`, '[metrics]\nmetrics_port = 2\n[image]\npinned_images[] = c\n[network]\nplugin_dirs[] = /c\n');
  await writeFile(`${path}.d/30-not-read.conf.bak`, 'nonsense');
  const { metrics, image, network } = loadConfig({ path });
  expect(metrics.metricsPort).toBe(3);
  expect(image.pinnedImages).toEqual(['c']);
  expect(network.pluginDirs).toEqual(['/c']);

  const sources = Object.fromEntries(effectiveConfig({ path, overrides: { 'berth.log_level': 'warn' } }).map(({ key, source }) => [key, source]));
  expect(sources).toMatchObject({
    root: 'default',
    log_level: 'command line',
    metrics_port: `${path}.d/20-last.conf:2`,
    plugin_dirs: `${path}.d/10-first.conf:6`,
  });
});

test('loadConfig() refuses a file that is named and absent', () => {
  expect(() => loadConfig({ path: '/nonexistent/berth.conf' })).toThrow('/nonexistent/berth.conf: configuration cannot be read');
});
