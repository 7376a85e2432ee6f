import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { status as grpc } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { Signal, SupplementalGroupsPolicy } from '../../proto/cri.ts';
import { containerStatus, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX, NGINX } from '../support/images.ts';
import { MadeContainers } from '../support/made-containers.ts';
import { ensureImage, makePod, type Pod, readLog, runPod } from '../support/pod.ts';
import { endEmpty } from '../support/remains.ts';
import { until } from '../support/wait.ts';

/** An image whose user is 1000, a member of the group 50000. */
const GROUPED = 'gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let files: string;
  let daemon: Daemon;
  let pod: Pod;
  let podId: string;
  let made: MadeContainers;

  beforeAll(async () => {
    files = mkdtempSync('/tmp/f');
    chmodSync(files, 0o711);
    const runtime = { default_env: 'LAYER=default, ONLY_DEFAULT=1' };
    // short: the path of a terminal's socket has 107 bytes, and an id takes 64 of them
    daemon = await startDaemon({ handler, registry: inject('registry'), images: [BUSYBOX], config: { berth: { runroot: join(files, 'r') }, runtime } });
    pod = makePod(daemon);
    podId = await runPod(daemon, pod);
    made = new MadeContainers(daemon, pod, podId);
  });
  afterAll(() => endEmpty(daemon, podId).finally(() => rmSync(files, { recursive: true, force: true })));

  test(
    'an environment is the default, the image and the request in this order',
    proves('ContainerConfig.envs', 'KeyValue.key', 'KeyValue.value', 'ContainerConfig.command', 'ContainerConfig.args'),
    async () => {
      const said = await made.logOf({
        command: ['sh', '-c', 'echo "$LAYER $ONLY_DEFAULT $HOME $0 $1"; printf %s "$LINES"'],
        args: ['zero', 'one'],
        envs: [
          { key: 'LAYER', value: Buffer.from('request ü') },
          { key: 'LINES', value: Buffer.from('first\nsecond') },
        ],
      });
      expect(said).toBe('request ü 1 /root zero one\nfirst\nsecond');
      await expect(made.create({ envs: [{ key: 'BAD', value: Buffer.from([0x66, 0xff]) }] })).rejects.toMatchObject({
        code: grpc.INVALID_ARGUMENT,
        details: expect.stringContaining('config.envs: the value of "BAD" is not UTF-8'),
      });
      await expect(made.create({ envs: [{ key: 'HOME', value: Buffer.from('/\nroot2:x:0:0::/:/bin/sh') }] })).rejects.toThrow('config.envs[0].value');
    },
  );

  test('a working directory is made inside of the container', proves('ContainerConfig.working_dir'), async () => {
    expect(await made.logOf({ command: ['sh', '-c', 'pwd; stat -c %u:%a .'], working_dir: '/made/for/it' })).toBe('/made/for/it\n0:755');
  });

  test('a terminal is one, and says which', proves('ContainerConfig.tty', 'ContainerConfig.stdin', 'ContainerConfig.stdin_once'), async () => {
    expect(await made.logOf({ command: ['sh', '-c', '[ -t 1 ] && echo "terminal $TERM"'], tty: true })).toContain('terminal xterm');
    expect(await made.logOf({ command: ['sh', '-c', '[ -t 1 ] || echo "none $TERM"; cat; echo end'] })).toBe('none \nend');
    // with stdin it stays open for whoever attaches: there is no end of file
    const waits = await made.start({ command: ['sh', '-c', 'cat; echo end'], stdin: true, stdin_once: true });
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
      const id = await made.start({ metadata, labels: { app: 'wéb' }, annotations, image, command: ['echo', 'logged'], log_path: 'elsewhere/7.log' });
      const status = await containerStatus(daemon, id);
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
    const id = await made.start({ command, stop_signal: Signal.SIGNAL_SIGINT });
    const { log_path, stop_signal } = await containerStatus(daemon, id);
    expect(stop_signal).toBe(Signal.SIGNAL_SIGINT);
    await until('the trap', () => readLog(log_path).length > 0);
    await daemon.cri.StopContainer({ container_id: id, timeout: '30' });
    expect(await containerStatus(daemon, id)).toMatchObject({ exit_code: 3 });
    await ensureImage(daemon, NGINX);
    expect((await containerStatus(daemon, await made.create({ image: { image: NGINX } }))).stop_signal).toBe(Signal.SIGNAL_SIGTERM);
    const realTime = await containerStatus(daemon, await made.create({ stop_signal: Signal.SIGNAL_SIGRTMINPLUS3 }));
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
      expect((await made.logOf(who, { ...asked, supplemental_groups_policy: Merge })).split('\n').slice(0, 3)).toEqual(['1000', '1000', '1000 50000 60000']);
      expect((await made.logOf(who, { ...asked, supplemental_groups_policy: Strict })).split('\n').slice(0, 3)).toEqual(['1000', '1000', '1000 60000']);
      const byName = { run_as_user: null, run_as_username: 'default-user', run_as_group: { value: '4321' } };
      expect((await made.logOf(who, byName)).split('\n')).toEqual(['1000', '4321', '4321 50000', 'default-user', '4321']);
      // neither is in the image: both have a name all the same
      expect(await made.logOf(who, { run_as_user: { value: '5555' }, run_as_group: { value: '6666' } })).toBe('5555\n6666\n6666\n5555\n6666');
      await expect(made.create(who, { run_as_user: null, run_as_username: 'nobody-knows' })).rejects.toThrow(
        'run_as_username: "nobody-knows" is not in the image',
      );
      const id = await made.start(who, { ...asked, supplemental_groups_policy: Strict });
      expect((await containerStatus(daemon, id)).user?.linux).toEqual({ uid: '1000', gid: '1000', supplemental_groups: ['1000', '60000'] });
    },
  );

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
      const id = await made.start({}, { readonly_rootfs: true, masked_paths: ['/proc/version', '/no/such'], readonly_paths: ['/proc/sys', '/no/such'] });
      expect(
        await shell(
          daemon,
          id,
          'touch /x 2>/dev/null || echo ro; wc -c </proc/version; touch /dev/shm/x && echo shm; grep -c " /proc/sys ro," /proc/self/mountinfo',
        ),
      ).toBe('ro\n0\nshm\n1');
      const open = await made.start({}, { masked_paths: [], readonly_paths: [] });
      expect(await shell(daemon, open, 'head -c 5 /proc/version; grep -c " /proc/sys " /proc/self/mountinfo || true')).toBe('Linux0');
    },
  );

  test('what is for another platform is refused by name', proves('ContainerConfig.windows', 'PodSandboxConfig.windows'), async () => {
    await expect(made.create({ windows: {} })).rejects.toThrow('config.windows: this is no Windows host');
    await expect(daemon.cri.RunPodSandbox({ config: { ...makePod(daemon).config, windows: {} } })).rejects.toThrow('config.windows: this is no Windows host');
  });
});
