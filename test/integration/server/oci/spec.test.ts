import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mount as mountPath, umount } from '../../../../base/sys.ts';
import { NamespaceMode, SecurityProfileProfileType } from '../../../../proto/cri.ts';
import { readHostFacts } from '../../../../server/oci/host-facts.ts';
import { buildPauseSpec } from '../../../../server/oci/pause-spec.ts';
import { proves } from '../../../support/fields.ts';
import { containerConfig, image, mount, namespaceOptions, resources, sandboxConfig } from '../../../unit/server/oci/requests.ts';
import { createWorld, OUT, runtimes, script } from './world.ts';

const runtimeDefault = { profile_type: SecurityProfileProfileType.RuntimeDefault, localhost_ref: '' };

const { cgroupV2 } = await readHostFacts();

describe.each(runtimes)('a container made by %s from buildContainerSpec()', (runtime) => {
  let world: Awaited<ReturnType<typeof createWorld>>;
  beforeAll(async () => {
    world = await createWorld(runtime);
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  test("runs as the request's user with its groups, home and environment in the working directory", async () => {
    const config = containerConfig(
      { command: script('id; env; pwd'), working_dir: '/var/deep/dir', envs: [{ key: 'GREETING', value: Buffer.from('grüß dich') }] },
      { run_as_user: { value: '1000' }, supplemental_groups: ['2000'] },
    );
    const { spec } = await world.build(config, { image: image({ env: ['FROM_IMAGE=1'] }) });
    const said = await world.inspect(spec);
    expect(said).toContain('uid=1000(app) gid=1000(app) groups=29(audio),1000(app),2000');
    for (const line of ['HOME=/home/app', 'HOSTNAME=web', 'FROM_IMAGE=1', 'GREETING=grüß dich', '/var/deep/dir']) expect(said.split('\n')).toContain(line);
  });

  test('gives a user that the image does not list a name of its own', async () => {
    const config = containerConfig({ command: script('id; cat /etc/passwd') }, { run_as_user: { value: '4321' }, run_as_group: { value: '99' } });
    const { spec } = await world.build(config);
    const said = await world.inspect(spec);
    expect(said).toContain('uid=4321(4321) gid=99');
    expect(said).toContain('root:x:0:0:root:/root:/bin/sh');
  });

  test(
    'has the capabilities of the defaults and the request, and only them',
    proves('Capability.add_capabilities', 'Capability.drop_capabilities', 'LinuxContainerSecurityContext.capabilities'),
    async () => {
      const config = containerConfig(
        { command: script('grep Cap /proc/self/status; grep NoNewPrivs /proc/self/status') },
        { capabilities: { add_capabilities: ['NET_ADMIN'], drop_capabilities: ['KILL'], add_ambient_capabilities: [] }, no_new_privs: true },
      );
      const { spec } = await world.build(config);
      const said = await world.inspect(spec);
      const mask = ((1n << 0n) | (1n << 10n) | (1n << 12n)).toString(16).padStart(16, '0'); // CHOWN, NET_BIND_SERVICE, NET_ADMIN
      expect(said).toContain(`CapEff:\t${mask}`);
      expect(said).toContain(`CapBnd:\t${mask}`);
      expect(said).toContain(`CapInh:\t${'0'.repeat(16)}`);
      expect(said).toContain('NoNewPrivs:\t1');
    },
  );

  test('keeps an ambient capability without being root', proves('Capability.add_ambient_capabilities'), async () => {
    const config = containerConfig(
      { command: script('grep Cap /proc/self/status') },
      {
        run_as_user: { value: '1000' },
        capabilities: { add_capabilities: [], drop_capabilities: ['ALL'], add_ambient_capabilities: ['NET_BIND_SERVICE'] },
      },
    );
    const { spec } = await world.build(config);
    const said = await world.inspect(spec);
    for (const set of ['CapEff', 'CapPrm', 'CapBnd', 'CapAmb']) expect(said).toContain(`${set}:\t0000000000000400`);
  });

  test(
    'runs under the built-in seccomp profile, which refuses namespaces and leaves the rest alone',
    proves('LinuxContainerSecurityContext.seccomp', 'SecurityProfile.profile_type'),
    async () => {
      const config = containerConfig(
        { command: script('grep Seccomp: /proc/self/status; unshare -U true; touch /tmp/a && mv /tmp/a /tmp/b && ls /tmp; sleep 0.01 && echo slept') },
        { seccomp: runtimeDefault },
      );
      const { spec } = await world.build(config);
      const said = await world.inspect(spec);
      expect(said).toContain('Seccomp:\t2');
      expect(said).toMatch(/unshare.*Operation not permitted/);
      expect(said).toContain('slept');
    },
  );

  test('may make namespaces under the built-in profile when it has CAP_SYS_ADMIN', async () => {
    const config = containerConfig(
      { command: script('grep Seccomp: /proc/self/status; unshare -m true && echo unshared') },
      { seccomp: runtimeDefault, capabilities: { add_capabilities: ['SYS_ADMIN'], drop_capabilities: [], add_ambient_capabilities: [] } },
    );
    const { spec } = await world.build(config);
    const said = await world.inspect(spec);
    expect(said).toContain('Seccomp:\t2');
    expect(said).toContain('unshared');
  });

  test('runs without a filter when unconfined', async () => {
    const { spec } = await world.build(containerConfig({ command: script('grep Seccomp: /proc/self/status') }));
    expect(await world.inspect(spec)).toContain('Seccomp:\t0');
  });

  test('runs under a profile from a file', proves('SecurityProfile.localhost_ref'), async () => {
    const path = join(world.root, 'block.json');
    await writeFile(path, JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }] }));
    const seccomp = { profile_type: SecurityProfileProfileType.Localhost, localhost_ref: path };
    const { spec } = await world.build(containerConfig({ command: script('busybox mkdir /tmp/x') }, { seccomp }));
    expect(await world.inspect(spec)).toMatch(/Operation not permitted/);
  });

  test(
    'sees masked paths empty and read-only paths read-only, and none of them when the lists are empty',
    proves('LinuxContainerSecurityContext.masked_paths', 'LinuxContainerSecurityContext.readonly_paths'),
    async () => {
      const paths = { masked_paths: ['/proc/version', '/proc/nothing-there', '/sys/firmware'], readonly_paths: ['/proc/sys', '/proc/also-not-there'] };
      const probe = script('stat -c %t,%T /proc/version; ls -A /sys/firmware; grep " /proc/sys " /proc/self/mountinfo; echo end');
      const masked = await world.inspect((await world.build(containerConfig({ command: probe }, paths))).spec);
      expect(masked).toMatch(/^1,3\n/); // /dev/null on it
      expect(masked).toMatch(/ \/proc\/sys ro,/);
      const open = await world.inspect((await world.build(containerConfig({ command: probe }))).spec);
      expect(open).toMatch(/^0,0\n/);
      expect(open).not.toContain('/proc/sys');
    },
  );

  test('has a read-only root with the rest as writable as it was, and writable image volumes', async () => {
    const probe = script('touch /file; touch /dev/shm/a && echo shm; touch /vol/b && echo volume; ls /vol; touch /data/c && echo data');
    const config = containerConfig(
      { command: probe, mounts: [mount({ host_path: join(world.root, 'made/data'), container_path: '/data' })] },
      { readonly_rootfs: true },
    );
    await mkdir(join(world.root, 'rootfs/real/vol'), { recursive: true });
    await symlink('/real/vol', join(world.root, 'rootfs/vol'));
    await writeFile(join(world.root, 'rootfs/real/vol/from-image'), '');
    const { spec } = await world.build(config, { image: image({ volumes: ['/vol'] }) });
    const said = await world.inspect(spec);
    expect(said).toMatch(/touch: \/file: Read-only file system/);
    for (const word of ['shm', 'volume', 'from-image', 'data']) expect(said.split('\n')).toContain(word);
  });

  test('has the mounts of the request, in place of a default where they are at the same path', async () => {
    const outer = join(world.root, 'outer');
    const inner = join(world.root, 'inner');
    await mkdir(join(outer, 'sub'), { recursive: true });
    await mkdir(inner);
    await writeFile(join(inner, 'hello'), 'inner\n');
    await writeFile(join(world.root, 'my-resolv'), 'nameserver 1.2.3.4\n');
    await symlink(inner, join(world.root, 'link-to-inner'));
    const config = containerConfig({
      command: script('cat /outer/sub/hello; touch /outer/sub/x; cat /etc/resolv.conf; cat /etc/hostname; grep " /outer" /proc/self/mountinfo'),
      mounts: [
        mount({ host_path: join(world.root, 'link-to-inner'), container_path: '/outer/sub', readonly: true, mount_options: ['noexec', 'nodev'] }),
        mount({ host_path: outer, container_path: '/outer/' }),
        mount({ host_path: join(world.root, 'my-resolv'), container_path: '/etc/resolv.conf' }),
      ],
    });
    const { spec } = await world.build(config);
    const said = await world.inspect(spec);
    expect(said).toContain('inner\n');
    expect(said).toMatch(/touch: .*Read-only file system/);
    expect(said).toContain('nameserver 1.2.3.4');
    expect(said).toContain('web\n');
    expect(said).toMatch(/\/outer\/sub ro,nodev,noexec/);
  });

  test('has a recursive read-only mount all the way down', proves('Mount.recursive_read_only'), async () => {
    const tree = join(world.root, 'tree');
    await mkdir(join(tree, 'below'), { recursive: true });
    mountPath('tmpfs', join(tree, 'below'), 'tmpfs');
    try {
      const probe = script('touch /tree/below/x; echo end');
      const config = containerConfig({
        command: probe,
        mounts: [mount({ host_path: tree, container_path: '/tree', readonly: true, recursive_read_only: true })],
      });
      expect(await world.inspect((await world.build(config)).spec)).toMatch(/Read-only file system/);
    } finally {
      umount(join(tree, 'below'));
    }
  });

  test("joins the pod's namespaces and has a PID namespace of its own", async () => {
    const config = containerConfig({ command: script('hostname; for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; echo $$') });
    await symlink('busybox', join(world.root, 'rootfs/bin/readlink')).catch(() => {});
    const { spec } = await world.build(config);
    let own = '';
    const said = await world.inspect(spec, async (pid) => {
      own = await readFile(`/proc/${pid}/status`, 'utf8');
    });
    const lines = said.split('\n');
    expect(lines[0]).toBe('web');
    expect(own).toMatch(/^NSpid:\t\d+\t1$/m);
    expect(lines[5]).toBe('1');
  });

  test('gets a device and nothing else of /dev unless privileged', async () => {
    const config = containerConfig({
      command: script('ls /dev; dd if=/dev/my-zero of=/dev/null bs=1 count=1 2>/dev/null && echo read; mknod /tmp/k c 1 11; cat /tmp/k'),
      devices: [{ host_path: '/dev/zero', container_path: '/dev/my-zero', permissions: 'r' }],
    });
    const { spec } = await world.build(config);
    const said = await world.inspect(spec);
    expect(said).toContain('my-zero');
    expect(said).toContain('read\n');
    expect(said).not.toContain('kmsg');
    expect(said).toMatch(/mknod: .*Operation not permitted/);
  });

  test('has all that the host has when privileged', async () => {
    const probe = script(
      'grep CapEff /proc/self/status; ls /dev; stat -c %t,%T /proc/version; grep " /sys " /proc/self/mountinfo; grep Seccomp: /proc/self/status',
    );
    const config = containerConfig({ command: probe }, { privileged: true, seccomp: runtimeDefault, masked_paths: ['/proc/version'] });
    const { spec } = await world.build(config);
    const said = await world.inspect(spec);
    const status = await readFile('/proc/self/status', 'utf8');
    expect(said).toContain(/^CapEff:.*$/m.exec(status)?.[0]);
    expect(said).toMatch(/ \/sys rw,/);
    expect(said).toContain('Seccomp:\t0');
    expect(said).toMatch(/^0,0$/m); // nothing masked
    expect(said).toMatch(/^kmsg$/m);
  });

  test.skipIf(cgroupV2)('has the limits of the request and of the configuration', async () => {
    const config = containerConfig({
      command: script('cat /proc/self/oom_score_adj; cat /proc/self/cgroup'),
      linux: {
        resources: resources({ oom_score_adj: '500', cpu_shares: '512', cpu_quota: '20000', cpu_period: '100000', memory_limit_in_bytes: String(64 << 20) }),
        security_context: null,
      },
    });
    const { spec } = await world.build(config, {
      defaults: { ...world.input(config).defaults, pidsLimit: 77 },
      sandbox: { ...world.input(config).sandbox, config: sandboxConfig({}, { namespace_options: namespaceOptions() }) },
    });
    let limits = '';
    const said = await world.inspect(spec, async (pid) => {
      limits = await readLimits(pid);
    });
    expect(said).toMatch(/^500\n/);
    expect(limits.split(' ')).toEqual([String(64 << 20), '512', '77']);
  });

  test('shares the PID namespace of the pause process made from buildPauseSpec()', async () => {
    const rootfs = join(world.root, 'pause-root');
    for (const dir of ['proc', 'dev']) await mkdir(join(rootfs, dir), { recursive: true });
    await world.inspect(await pauseSpec(world, rootfs), async (pid) => {
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      expect(status).toMatch(/^CapBnd:\t0+$/m);
      const config = containerConfig(
        { command: script('ls /proc | grep -c "^[0-9]"; echo pid $$') },
        { namespace_options: namespaceOptions({ pid: NamespaceMode.POD }) },
      );
      const base = world.input(config);
      const { spec } = await world.build(config, { sandbox: { ...base.sandbox, namespaces: { ...world.namespaces, pid: `/proc/${pid}/ns/pid` } } });
      expect(await world.inspect(spec)).not.toContain('pid 1\n');
    });
  });
});

/** The built-in pause's shape, with a command that ends at once. */
async function pauseSpec(world: Awaited<ReturnType<typeof createWorld>>, rootfs: string) {
  await writeFile(join(rootfs, 'pause'), await readFile('/bin/busybox'), { mode: 0o755 });
  await mkdir(join(rootfs, OUT), { recursive: true });
  return buildPauseSpec({
    id: 'pause',
    config: sandboxConfig(),
    namespaces: world.namespaces,
    hostname: 'web',
    args: ['/pause', 'true'],
    env: [],
    rootfs,
    cgroupsPath: `/${world.cgroup}/pause`,
    host: world.host,
  });
}

/** Memory limit, cpu shares and pids limit. */
async function readLimits(pid: number): Promise<string> {
  const lines = (await readFile(`/proc/${pid}/cgroup`, 'utf8')).trim().split('\n');
  const cgroups = new Map(lines.map((line) => line.split(':').slice(1) as [string, string]));
  const read = async (controller: string, file: string) =>
    (await readFile(join('/sys/fs/cgroup', controller, cgroups.get(controller) ?? '', file), 'utf8')).trim();
  return (await Promise.all([read('memory', 'memory.limit_in_bytes'), read('cpu', 'cpu.shares'), read('pids', 'pids.max')])).join(' ');
}
