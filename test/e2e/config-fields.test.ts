import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as grpc } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { makedev, mknod, mount as mountPath, S_IF, umount } from '../../base/sys.ts';
import {
  type ContainerConfig,
  ContainerState,
  type Init,
  type LinuxContainerSecurityContext,
  MountPropagation,
  Signal,
  SupplementalGroupsPolicy,
} from '../../proto/cri.ts';
import { removePod, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX, NGINX } from '../support/images.ts';
import { ensureImage, makeContainer, makePod, type Pod, readLog, runPod } from '../support/pod.ts';
import { endEmpty } from '../support/remains.ts';
import { until } from '../support/wait.ts';

/** An image whose user is 1000, a member of the group 50000. */
const GROUPED = 'gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let files: string;
  let daemon: Daemon;
  let pod: Pod;
  let podId: string;
  let count = 0;

  beforeAll(async () => {
    files = mkdtempSync('/tmp/f');
    chmodSync(files, 0o711);
    for (const name of ['cdi', 'cdi-run', 'hooks', 'hooks-etc']) mkdirSync(join(files, name));
    const runtime = {
      cdi_spec_dirs: `${files}/cdi, ${files}/cdi-run`,
      hooks_dir: `${files}/hooks, ${files}/hooks-etc`,
      device_ownership_from_security_context: true,
      default_env: 'LAYER=default, ONLY_DEFAULT=1',
    };
    // short: the path of a terminal's socket has 107 bytes, and an id takes 64 of them
    daemon = await startDaemon({ handler, registry: inject('registry'), config: { berth: { runroot: join(files, 'r') }, runtime } });
    pod = makePod(daemon, { annotations: { 'example.com/traced': 'yes' } });
    podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
  });
  afterAll(async () => {
    try {
      await removePod(daemon, podId);
    } finally {
      await endEmpty(daemon).finally(() => rmSync(files, { recursive: true, force: true }));
    }
  });

  function configOf(change: Init<ContainerConfig>, security: Init<LinuxContainerSecurityContext> = {}) {
    count += 1;
    const plain = makeContainer(pod, { name: `c${count}` });
    const linux = { ...plain.linux, security_context: { ...plain.linux?.security_context, ...security } };
    return { ...plain, linux, ...change, mounts: [...(plain.mounts ?? []), ...(change.mounts ?? [])] };
  }

  async function create(change: Init<ContainerConfig>, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    const config = configOf(change, security);
    const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config });
    return container_id;
  }

  async function start(change: Init<ContainerConfig>, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    const container_id = await create(change, security);
    await daemon.cri.StartContainer({ container_id });
    return container_id;
  }

  async function statusOf(container_id: string) {
    const { status } = await daemon.cri.ContainerStatus({ container_id });
    if (status === null) throw new Error('no status');
    return status;
  }

  async function logOf(change: Init<ContainerConfig>, security: Init<LinuxContainerSecurityContext> = {}): Promise<string> {
    const id = await start(change, security);
    const status = await until('the end of the container', async () => {
      const found = await statusOf(id);
      return found.state === ContainerState.CONTAINER_EXITED && found;
    });
    return readLog(status.log_path)
      .map(({ text }) => text)
      .join('\n');
  }

  test(
    'an environment is the default, the image and the request in this order',
    proves('ContainerConfig.envs', 'KeyValue.key', 'KeyValue.value', 'ContainerConfig.command', 'ContainerConfig.args'),
    async () => {
      const said = await logOf({
        command: ['sh', '-c', 'echo "$LAYER $ONLY_DEFAULT $HOME $0 $1"; printf %s "$LINES"'],
        args: ['zero', 'one'],
        envs: [
          { key: 'LAYER', value: Buffer.from('request ü') },
          { key: 'LINES', value: Buffer.from('first\nsecond') },
        ],
      });
      expect(said).toBe('request ü 1 /root zero one\nfirst\nsecond');
      await expect(create({ envs: [{ key: 'BAD', value: Buffer.from([0x66, 0xff]) }] })).rejects.toMatchObject({
        code: grpc.INVALID_ARGUMENT,
        details: expect.stringContaining('config.envs: the value of "BAD" is not UTF-8'),
      });
      await expect(create({ envs: [{ key: 'HOME', value: Buffer.from('/\nroot2:x:0:0::/:/bin/sh') }] })).rejects.toThrow('config.envs[0].value');
    },
  );

  test('a working directory is made inside of the container', proves('ContainerConfig.working_dir'), async () => {
    expect(await logOf({ command: ['sh', '-c', 'pwd; stat -c %u:%a .'], working_dir: '/made/for/it' })).toBe('/made/for/it\n0:755');
  });

  test('a terminal is one, and says which', proves('ContainerConfig.tty', 'ContainerConfig.stdin', 'ContainerConfig.stdin_once'), async () => {
    expect(await logOf({ command: ['sh', '-c', '[ -t 1 ] && echo "terminal $TERM"'], tty: true })).toContain('terminal xterm');
    expect(await logOf({ command: ['sh', '-c', '[ -t 1 ] || echo "none $TERM"; cat; echo end'] })).toBe('none \nend');
    // with stdin it stays open for whoever attaches: there is no end of file
    const waits = await start({ command: ['sh', '-c', 'cat; echo end'], stdin: true, stdin_once: true });
    expect(await shell(daemon, waits, 'readlink /proc/1/fd/0; cat /proc/1/comm')).toMatch(/^pipe:.*\nsh$/);
  });

  test(
    'labels, annotations, image and log are as the request has them',
    proves(
      'ContainerConfig.metadata',
      'ContainerMetadata.name',
      'ContainerMetadata.attempt',
      'ContainerConfig.labels',
      'ContainerConfig.annotations',
      'ContainerConfig.image',
      'ContainerConfig.log_path',
      'ImageSpec.image',
      'ImageSpec.annotations',
      'ImageSpec.user_specified_image',
      'ImageSpec.runtime_handler',
      'ImageSpec.image_ref',
    ),
    async () => {
      const { image: stored } = await daemon.cri.ImageStatus({ image: { image: BUSYBOX } });
      const annotations = { 'a/b': ' spaces \n and "quotes" ü ', empty: '' };
      const image = { image: stored?.id ?? '', user_specified_image: 'busy:1', annotations: { of: 'the image' }, runtime_handler: 'kept', image_ref: 'asked' };
      const metadata = { name: 'named', attempt: 7 };
      const id = await start({ metadata, labels: { app: 'wéb' }, annotations, image, command: ['echo', 'logged'], log_path: 'elsewhere/7.log' });
      const status = await statusOf(id);
      expect(status).toMatchObject({
        metadata,
        labels: { app: 'wéb' },
        annotations,
        image_id: stored?.id,
        log_path: join(pod.logDirectory, 'elsewhere/7.log'),
      });
      expect(status.image).toMatchObject({ image: 'busy:1', user_specified_image: 'busy:1', annotations: image.annotations, runtime_handler: 'kept' });
      expect(status.image_ref).toMatch(/@sha256:|^sha256:/);
      await until('the log', () => readLog(status.log_path).length > 0);
      expect(readLog(status.log_path)).toMatchObject([{ stream: 'stdout', tag: 'F', text: 'logged' }]);
    },
  );

  test('stops by the signal of the container, else of the image', proves('ContainerConfig.stop_signal'), async () => {
    const command = ['sh', '-c', 'trap "echo int; exit 3" INT; trap "echo term; exit 4" TERM; echo ready; while :; do sleep 0.1; done'];
    const id = await start({ command, stop_signal: Signal.SIGNAL_SIGINT });
    const { log_path, stop_signal } = await statusOf(id);
    expect(stop_signal).toBe(Signal.SIGNAL_SIGINT);
    await until('the trap', () => readLog(log_path).length > 0);
    await daemon.cri.StopContainer({ container_id: id, timeout: '30' });
    expect(await statusOf(id)).toMatchObject({ exit_code: 3 });
    await ensureImage(daemon, NGINX);
    expect((await statusOf(await create({ image: { image: NGINX } }))).stop_signal).toBe(Signal.SIGNAL_SIGTERM);
    const realTime = await statusOf(await create({ stop_signal: Signal.SIGNAL_SIGRTMINPLUS3 }));
    expect(realTime.stop_signal).toBe(Signal.SIGNAL_SIGRTMINPLUS3);
  });

  test(
    'users are found by number and by name, with the groups that the policy gives',
    proves(
      'LinuxContainerSecurityContext.run_as_user',
      'LinuxContainerSecurityContext.run_as_group',
      'LinuxContainerSecurityContext.run_as_username',
      'LinuxContainerSecurityContext.supplemental_groups',
      'LinuxContainerSecurityContext.supplemental_groups_policy',
      'Int64Value.value',
    ),
    async () => {
      await ensureImage(daemon, GROUPED);
      const who = { image: { image: GROUPED }, command: ['sh', '-c', 'id -u; id -g; id -G; id -un; id -gn'] };
      const { Merge, Strict } = SupplementalGroupsPolicy;
      const asked = { run_as_user: { value: '1000' }, supplemental_groups: ['60000'] };
      expect((await logOf(who, { ...asked, supplemental_groups_policy: Merge })).split('\n').slice(0, 3)).toEqual(['1000', '1000', '1000 50000 60000']);
      expect((await logOf(who, { ...asked, supplemental_groups_policy: Strict })).split('\n').slice(0, 3)).toEqual(['1000', '1000', '1000 60000']);
      const byName = { run_as_user: null, run_as_username: 'default-user', run_as_group: { value: '4321' } };
      expect((await logOf(who, byName)).split('\n')).toEqual(['1000', '4321', '4321 50000', 'default-user', '4321']);
      // neither is in the image: both have a name all the same
      expect(await logOf(who, { run_as_user: { value: '5555' }, run_as_group: { value: '6666' } })).toBe('5555\n6666\n6666\n5555\n6666');
      await expect(create(who, { run_as_user: null, run_as_username: 'nobody-knows' })).rejects.toThrow('run_as_username: "nobody-knows" is not in the image');
      const id = await start(who, { ...asked, supplemental_groups_policy: Strict });
      expect((await statusOf(id)).user?.linux).toEqual({ uid: '1000', gid: '1000', supplemental_groups: ['1000', '60000'] });
    },
  );

  test(
    'mounts are files, directories and links, with the flags that were asked for',
    proves('ContainerConfig.mounts', 'Mount.container_path', 'Mount.host_path', 'Mount.readonly', 'Mount.mount_options', 'Mount.selinux_relabel'),
    async () => {
      const dir = join(files, 'mounted');
      mkdirSync(join(dir, 'sub'), { recursive: true });
      writeFileSync(join(dir, 'file'), 'content');
      symlinkSync(dir, join(files, 'link'));
      const id = await start({
        mounts: [
          { host_path: join(dir, 'file'), container_path: '/etc/one-file', readonly: true },
          { host_path: join(files, 'link'), container_path: '/linked', selinux_relabel: true, mount_options: ['noexec', 'nodev', 'nosuid'] },
          { host_path: join(dir, 'missing'), container_path: '/linked/missing' },
        ],
      });
      expect(await shell(daemon, id, 'cat /etc/one-file /linked/file; touch /etc/one-file 2>/dev/null || echo " ro"; touch /linked/new')).toBe(
        'contentcontent ro',
      );
      expect(await shell(daemon, id, 'grep " /linked " /proc/self/mountinfo')).toMatch(/ \/linked rw,nosuid,nodev,noexec/);
      expect(statSync(join(dir, 'missing')).isDirectory()).toBe(true);
      expect(readdirSync(dir)).toContain('new');
      const { mounts } = await statusOf(id);
      expect(mounts.find(({ container_path }) => container_path === '/linked')?.host_path).toBe(dir);
      await expect(create({ mounts: [{ host_path: '/', container_path: '/x', mount_options: ['exec'] }] })).rejects.toThrow('mount_options: "exec" is none of');
    },
  );

  test('mounts made later are seen as the propagation says', proves('Mount.propagation', 'Mount.recursive_read_only'), async () => {
    const shared = join(files, 'shared');
    mkdirSync(shared);
    mountPath(shared, shared, 'none', 4096); // MS_BIND
    mountPath('none', shared, 'none', (1 << 20) | 16384); // MS_SHARED | MS_REC
    try {
      const tree = { host_path: shared, container_path: '/tree' };
      const [isolated, slave] = await Promise.all([
        start({ mounts: [{ ...tree, propagation: MountPropagation.PROPAGATION_PRIVATE }] }),
        start({ mounts: [{ ...tree, propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER }] }),
      ]);
      mkdirSync(join(shared, 'late'));
      mountPath('tmpfs', join(shared, 'late'), 'tmpfs');
      try {
        writeFileSync(join(shared, 'late/seen'), '');
        expect(await shell(daemon, isolated, 'ls /tree/late')).toBe('');
        expect(await shell(daemon, slave, 'ls /tree/late')).toBe('seen');
        const { runtime_handlers } = await daemon.cri.Status({});
        const can = runtime_handlers.find(({ name }) => name === '')?.features?.recursive_read_only_mounts;
        const recursive = { mounts: [{ ...tree, readonly: true, recursive_read_only: true }] };
        if (can === true) expect(await shell(daemon, await start(recursive), 'touch /tree/late/x 2>/dev/null || echo ro')).toBe('ro');
        else await expect(create(recursive)).rejects.toThrow('recursive_read_only: not supported by the runtime handler');
      } finally {
        await Promise.all([isolated, slave].map((container_id) => daemon.cri.RemoveContainer({ container_id })));
        umount(join(shared, 'late'));
      }
    } finally {
      umount(shared);
    }
    const own = join(files, 'private');
    mkdirSync(own);
    mountPath('tmpfs', own, 'tmpfs');
    try {
      mountPath('none', own, 'none', 1 << 18); // MS_PRIVATE
      const bidirectional = { host_path: own, container_path: '/own', propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL };
      await expect(create({ mounts: [bidirectional] })).rejects.toThrow('is not a shared mount as its propagation needs');
    } finally {
      umount(own);
    }
  });

  test('an image is mounted as a volume, whole or in part', proves('Mount.image', 'Mount.image_sub_path'), async () => {
    await ensureImage(daemon, NGINX);
    const page = { image: { image: NGINX }, container_path: '/page', image_sub_path: 'usr/share/nginx/html', readonly: true };
    const whole = { image: { image: NGINX }, container_path: '/image', mount_options: ['noexec'] };
    const [first, second] = [await start({ mounts: [page, whole] }), await start({ mounts: [page] })];
    for (const id of [first, second]) expect(await shell(daemon, id, 'cat /page/index.html')).toContain('Welcome to nginx!');
    expect(
      await shell(daemon, first, 'ls -d /image/usr/sbin/nginx; touch /image/x 2>/dev/null || echo ro; grep -c " /image ro,.*noexec" /proc/self/mountinfo'),
    ).toBe('/image/usr/sbin/nginx\nro\n1');
    const { image } = await daemon.cri.ImageStatus({ image: { image: NGINX } });
    const { mounts } = await statusOf(first);
    const shown = mounts.find(({ container_path }) => container_path === '/page');
    expect(shown).toMatchObject({ readonly: true, image_sub_path: 'usr/share/nginx/html', image: { image: NGINX, image_ref: image?.repo_digests[0] } });
    await daemon.restart(); // the mounts outlive the daemon
    for (const id of [first, second]) expect(await shell(daemon, id, 'cat /page/index.html')).toContain('Welcome to nginx!');
    await expect(daemon.cri.RemoveImage({ image: { image: NGINX } })).rejects.toMatchObject({ code: grpc.FAILED_PRECONDITION });
    const refused = (change: object) => create({ mounts: [{ ...page, ...change }] });
    await expect(refused({ image_sub_path: 'not/there' })).rejects.toThrow(
      /ImageVolumeMountFailed: config\.mounts\[3\]\.image_sub_path: "not\/there" is not in the image/,
    );
    await expect(refused({ image: { image: 'registry.k8s.io/never:1' } })).rejects.toMatchObject({ code: grpc.NOT_FOUND });
    await expect(refused({ image_sub_path: '../../etc' })).rejects.toThrow('is no path inside of the image');
    for (const container_id of [first, second]) await daemon.cri.RemoveContainer({ container_id });
  });

  test(
    'devices are there with their permissions, and belong to the user who asked for them',
    proves('ContainerConfig.devices', 'Device.container_path', 'Device.host_path', 'Device.permissions'),
    async () => {
      mkdirSync(join(files, 'nodes/below'), { recursive: true });
      mknod(join(files, 'nodes/below/full'), S_IF.CHR | 0o666, makedev(1, 7));
      const id = await start(
        {
          devices: [
            { host_path: '/dev/zero', container_path: '/dev/my-zero', permissions: 'r' },
            { host_path: '/dev/null', container_path: '/dev/my-null', permissions: 'rwm' },
            { host_path: join(files, 'nodes'), container_path: '/dev/all', permissions: 'rw' },
            { host_path: '/dev/kmsg', container_path: '/dev/only-read', permissions: 'r' },
            { host_path: '/dev/kmsg', container_path: '/dev/not-written', permissions: 'rm' },
          ],
        },
        { run_as_user: { value: '1000' }, run_as_group: { value: '2000' } },
      );
      expect(await shell(daemon, id, 'stat -c %u:%g:%t:%T /dev/my-zero /dev/my-null /dev/all/below/full; head -c 1 /dev/my-zero | wc -c')).toBe(
        '1000:2000:1:5\n1000:2000:1:3\n1000:2000:1:7\n1',
      );
      // runtimes allow the usual devices anyway; one beside them is denied what was not asked for, whoever owns its node
      expect(await shell(daemon, id, 'echo x >/dev/my-null && echo written')).toBe('written');
      const write = 'for kmsg in /dev/only-read /dev/not-written; do (: >$kmsg) 2>&1; done | grep -c "not permitted" || true';
      expect(await shell(daemon, id, write)).toBe('2');
      const writable = await start(
        { devices: [{ host_path: '/dev/kmsg', container_path: '/dev/written', permissions: 'w' }] },
        { run_as_user: { value: '1000' }, run_as_group: { value: '2000' } },
      );
      expect(await shell(daemon, writable, ': >/dev/written && echo opened')).toBe('opened');
      await expect(create({ devices: [{ host_path: '/dev/not-there', container_path: '/dev/x', permissions: 'r' }] })).rejects.toThrow(
        'config.devices[0].host_path',
      );
      await expect(create({ devices: [{ host_path: '/dev/null', container_path: '/dev/x', permissions: 'rx' }] })).rejects.toThrow(
        'config.devices[0].permissions',
      );
    },
  );

  test('CDI devices bring environment, mounts, nodes, groups and hooks', proves('ContainerConfig.CDI_devices', 'CDIDevice.name'), async () => {
    const marker = join(files, 'cdi-hook-ran');
    writeFileSync(join(files, 'mark'), `#!/bin/sh\necho "$2" >>"${files}/$1"\n`);
    chmodSync(join(files, 'mark'), 0o755);
    mkdirSync(join(files, 'driver'), { recursive: true });
    writeFileSync(join(files, 'driver/lib'), 'driver');
    const kind = 'vendor.com/gpu';
    writeFileSync(
      join(files, 'cdi/gpu.yaml'),
      [
        'cdiVersion: "0.7.0"',
        `kind: ${kind}`,
        'containerEdits:',
        '  env: [GPU=all]',
        `  mounts: [{hostPath: ${files}/driver, containerPath: /driver, options: [ro, nosuid]}]`,
        '  additionalGids: [777]',
        'devices:',
        '  - name: "0"',
        '    containerEdits:',
        '      env: [GPU0=yes]',
        '      deviceNodes: [{path: /dev/gpu0, hostPath: /dev/zero, permissions: rw, fileMode: 432}]',
        `      hooks: [{hookName: createRuntime, path: ${files}/mark, args: [mark, cdi-hook-ran, gpu0]}]`,
      ].join('\n'),
    );
    writeFileSync(
      join(files, 'cdi-run/net.json'),
      JSON.stringify({ cdiVersion: '0.3.0', kind: 'vendor.com/net', devices: [{ name: 'a', containerEdits: { env: ['NET=a'] } }] }),
    );
    const devices = { CDI_devices: [{ name: `${kind}=0` }], annotations: { 'cdi.k8s.io/net': 'vendor.com/net=a' } };
    const id = await start(devices, { run_as_user: { value: '1000' } });
    expect(
      await shell(daemon, id, 'echo $GPU $GPU0 $NET; cat /driver/lib; touch /driver/x 2>/dev/null || echo " ro"; id -G; stat -c %a:%t:%T:%u /dev/gpu0'),
    ).toBe('all yes a\ndriver ro\n0 777\n660:1:5:1000');
    expect((await statusOf(id)).user?.linux?.supplemental_groups).toEqual(['0', '777']);
    expect(readFileSync(marker, 'utf8')).toBe('gpu0\n');
    await expect(create({ CDI_devices: [{ name: `${kind}=7` }] })).rejects.toMatchObject({
      code: grpc.INVALID_ARGUMENT,
      details: expect.stringContaining(`config.CDI_devices[0].name: "${kind}=7" is not described by any CDI file`),
    });
  });

  test('a network device of CDI 1.1 is refused by a handler that would pass over it', async () => {
    writeFileSync(
      join(files, 'cdi/nic.json'),
      JSON.stringify({
        cdiVersion: '1.1.0',
        kind: 'vendor.com/nic',
        devices: [{ name: 'a', containerEdits: { netDevices: [{ hostInterfaceName: 'lo', name: 'net1' }] } }],
      }),
    );
    await expect(create({ CDI_devices: [{ name: 'vendor.com/nic=a' }] })).rejects.toMatchObject({
      code: grpc.INVALID_ARGUMENT,
      details: expect.stringContaining('config.CDI_devices: network devices, such as "lo", are not supported by the runtime handler'),
    });
  });

  test('hooks run for the containers that they are meant for, and a bad file is told', async () => {
    writeFileSync(join(files, 'mark'), `#!/bin/sh\necho "$2" >>"${files}/$1"\n`);
    chmodSync(join(files, 'mark'), 0o755);
    const hook = (dir: string, name: string, word: string, when: object, stages: readonly string[]) =>
      writeFileSync(
        join(files, dir, name),
        JSON.stringify({ version: '1.0.0', hook: { path: join(files, 'mark'), args: ['mark', 'hooks-ran', word] }, when, stages }),
      );
    hook('hooks', '10-traced.json', 'replaced', { always: true }, ['poststop']);
    hook('hooks-etc', '10-traced.json', 'traced', { annotations: { '^example\\.com/traced$': '^yes$' } }, ['createRuntime', 'poststop']);
    hook('hooks', '20-never.json', 'never', { commands: ['^never$'] }, ['createRuntime']);
    writeFileSync(join(files, 'hooks/30-bad.json'), '{"version": "0.9"}');
    try {
      const id = await start({ command: ['sleep', '1000'] });
      expect(readFileSync(join(files, 'hooks-ran'), 'utf8')).toBe('traced\n');
      await daemon.cri.RemoveContainer({ container_id: id });
      expect(readFileSync(join(files, 'hooks-ran'), 'utf8')).toBe('traced\ntraced\n');
      expect(daemon.log()).toMatch(/30-bad\.json.*version: .*Left out OCI hook file|Left out OCI hook file.*30-bad\.json/);
    } finally {
      for (const name of ['hooks/10-traced.json', 'hooks-etc/10-traced.json', 'hooks/20-never.json', 'hooks/30-bad.json']) rmSync(join(files, name));
    }
  });

  test(
    'a read-only root stays so, and hidden paths are hidden',
    proves(
      'LinuxContainerSecurityContext.readonly_rootfs',
      'LinuxContainerSecurityContext.masked_paths',
      'LinuxContainerSecurityContext.readonly_paths',
      'ContainerConfig.linux',
      'LinuxContainerConfig.security_context',
    ),
    async () => {
      const id = await start({}, { readonly_rootfs: true, masked_paths: ['/proc/version', '/no/such'], readonly_paths: ['/proc/sys', '/no/such'] });
      expect(
        await shell(
          daemon,
          id,
          'touch /x 2>/dev/null || echo ro; wc -c </proc/version; touch /dev/shm/x && echo shm; grep -c " /proc/sys ro," /proc/self/mountinfo',
        ),
      ).toBe('ro\n0\nshm\n1');
      const open = await start({}, { masked_paths: [], readonly_paths: [] });
      expect(await shell(daemon, open, 'head -c 5 /proc/version; grep -c " /proc/sys " /proc/self/mountinfo || true')).toBe('Linux0');
    },
  );

  test('what is for another platform is refused by name', proves('ContainerConfig.windows', 'PodSandboxConfig.windows'), async () => {
    await expect(create({ windows: {} })).rejects.toThrow('config.windows: this is no Windows host');
    await expect(daemon.cri.RunPodSandbox({ config: { ...makePod(daemon).config, windows: {} } })).rejects.toThrow('config.windows: this is no Windows host');
  });
});
