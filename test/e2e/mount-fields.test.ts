import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status as grpc } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { mount as mountPath, umount } from '../../base/sys.ts';
import { MountPropagation } from '../../proto/cri.ts';
import { containerStatus, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX, NGINX } from '../support/images.ts';
import { MadeContainers } from '../support/made-containers.ts';
import { ensureImage, makePod, runPod } from '../support/pod.ts';
import { endEmpty } from '../support/remains.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let files: string;
  let daemon: Daemon;
  let podId: string;
  let made: MadeContainers;

  beforeAll(async () => {
    files = mkdtempSync(join(tmpdir(), 'berth-mounts-'));
    chmodSync(files, 0o711);
    daemon = await startDaemon({ handler, registry: inject('registry'), images: [BUSYBOX] });
    const pod = makePod(daemon);
    podId = await runPod(daemon, pod);
    made = new MadeContainers(daemon, pod, podId);
  });
  afterAll(() => endEmpty(daemon, podId).finally(() => rmSync(files, { recursive: true, force: true })));

  test(
    'mounts are files, directories and links, with the flags that were asked for',
    proves('ContainerConfig.mounts', 'Mount.container_path', 'Mount.host_path', 'Mount.readonly', 'Mount.mount_options', 'Mount.selinux_relabel'),
    async () => {
      const dir = join(files, 'mounted');
      mkdirSync(join(dir, 'sub'), { recursive: true });
      writeFileSync(join(dir, 'file'), 'content');
      symlinkSync(dir, join(files, 'link'));
      const id = await made.start({
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
      const { mounts } = await containerStatus(daemon, id);
      expect(mounts.find(({ container_path }) => container_path === '/linked')?.host_path).toBe(dir);
      await expect(made.create({ mounts: [{ host_path: '/', container_path: '/x', mount_options: ['exec'] }] })).rejects.toThrow(
        'mount_options: "exec" is none of',
      );
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
        made.start({ mounts: [{ ...tree, propagation: MountPropagation.PROPAGATION_PRIVATE }] }),
        made.start({ mounts: [{ ...tree, propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER }] }),
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
        if (can === true) expect(await shell(daemon, await made.start(recursive), 'touch /tree/late/x 2>/dev/null || echo ro')).toBe('ro');
        else await expect(made.create(recursive)).rejects.toThrow('recursive_read_only: not supported by the runtime handler');
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
      await expect(made.create({ mounts: [bidirectional] })).rejects.toThrow('is not a shared mount as its propagation needs');
    } finally {
      umount(own);
    }
  });

  test('an image is mounted as a volume, whole or in part', proves('Mount.image', 'Mount.image_sub_path'), async () => {
    await ensureImage(daemon, NGINX);
    const page = { image: { image: NGINX }, container_path: '/page', image_sub_path: 'usr/share/nginx/html', readonly: true };
    const whole = { image: { image: NGINX }, container_path: '/image', mount_options: ['noexec'] };
    const [first, second] = [await made.start({ mounts: [page, whole] }), await made.start({ mounts: [page] })];
    for (const id of [first, second]) expect(await shell(daemon, id, 'cat /page/index.html')).toContain('Welcome to nginx!');
    expect(
      await shell(daemon, first, 'ls -d /image/usr/sbin/nginx; touch /image/x 2>/dev/null || echo ro; grep -c " /image ro,.*noexec" /proc/self/mountinfo'),
    ).toBe('/image/usr/sbin/nginx\nro\n1');
    const { image } = await daemon.cri.ImageStatus({ image: { image: NGINX } });
    const { mounts } = await containerStatus(daemon, first);
    const shown = mounts.find(({ container_path }) => container_path === '/page');
    expect(shown).toMatchObject({ readonly: true, image_sub_path: 'usr/share/nginx/html', image: { image: NGINX, image_ref: image?.repo_digests[0] } });
    await daemon.restart(); // the mounts outlive the daemon
    for (const id of [first, second]) expect(await shell(daemon, id, 'cat /page/index.html')).toContain('Welcome to nginx!');
    await expect(daemon.cri.RemoveImage({ image: { image: NGINX } })).rejects.toMatchObject({ code: grpc.FAILED_PRECONDITION });
    const refused = (change: object) => made.create({ mounts: [{ ...page, ...change }] });
    await expect(refused({ image_sub_path: 'not/there' })).rejects.toThrow(
      /ImageVolumeMountFailed: config\.mounts\[3\]\.image_sub_path: "not\/there" is not in the image/,
    );
    await expect(refused({ image: { image: 'registry.k8s.io/never:1' } })).rejects.toMatchObject({ code: grpc.NOT_FOUND });
    await expect(refused({ image_sub_path: '../../etc' })).rejects.toThrow('is no path inside of the image');
    for (const container_id of [first, second]) await daemon.cri.RemoveContainer({ container_id });
  });
});
