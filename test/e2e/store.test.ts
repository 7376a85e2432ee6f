import { unlinkSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { BUSYBOX, NGINX } from '../support/images.ts';
import { ensureImage, startPod } from '../support/pod.ts';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon({ handler: 'crun', registry: inject('registry'), images: [BUSYBOX] });
});
afterAll(() => daemon[Symbol.asyncDispose]());

const spec = (image: string) => ({ image: { image } });

test('RemoveImage() refuses an image that a container uses, running or not, and frees it at once afterwards', async () => {
  const { podId, containerId } = await startPod(daemon);
  const id = (await daemon.cri.ImageStatus(spec(BUSYBOX))).image?.id ?? '';
  const refused = { code: status.FAILED_PRECONDITION, details: `image ${id} is in use by container ${containerId}` };
  await expect(daemon.cri.RemoveImage(spec(BUSYBOX))).rejects.toMatchObject(refused);
  await daemon.cri.StopContainer({ container_id: containerId });
  await expect(daemon.cri.RemoveImage(spec(id))).rejects.toMatchObject(refused);
  await daemon.restart();
  await expect(daemon.cri.RemoveImage(spec(id))).rejects.toMatchObject(refused);
  await daemon.cri.RemovePodSandbox({ pod_sandbox_id: podId });
  await daemon.cri.RemoveImage(spec(BUSYBOX));
  expect((await daemon.cri.ImageStatus(spec(id))).image).toBeNull();
  for (const directory of ['layers', 'blobs', 'images', 'trash']) expect(await readdir(join(daemon.root, directory)), directory).toEqual([]);
  expect((await daemon.cri.ImageFsInfo()).image_filesystems[0]).toMatchObject({ used_bytes: { value: '0' }, inodes_used: { value: '0' } });
  await daemon.cri.RemoveImage(spec(BUSYBOX));
});

test('RemoveImage() by one tag removes the image with all its names', async () => {
  await ensureImage(daemon, BUSYBOX);
  const digest = (await daemon.cri.ImageStatus(spec(BUSYBOX))).image?.repo_digests[0] ?? '';
  expect(digest).toContain('@sha256:');
  await daemon.cri.RemoveImage(spec(digest));
  expect((await daemon.cri.ListImages()).images).toEqual([]);
});

test('after an unclean stop a check finds what is damaged, and the daemon serves meanwhile', async () => {
  for (const { id } of (await daemon.cri.ListImages()).images) await daemon.cri.RemoveImage(spec(id));
  await ensureImage(daemon, NGINX);
  const before = await daemon.cri.ImageFsInfo();
  const [layer] = await readdir(join(daemon.root, 'layers'));
  await daemon.kill('SIGKILL');
  unlinkSync(join(daemon.root, 'layers', layer ?? '', 'entries'));
  await daemon.start();
  expect((await daemon.cri.ImageFsInfo()).image_filesystems[0]?.used_bytes).toEqual(before.image_filesystems[0]?.used_bytes);
  const lines = () =>
    daemon
      .log()
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line));
  await vi.waitFor(() => expect(lines()).toContainEqual(expect.objectContaining({ msg: 'Checked the image store', count: 1 })), { timeout: 60_000 });
  expect(lines()).toContainEqual(
    expect.objectContaining({ level: 'warn', msg: 'Found damage in the image store', image: NGINX, reason: 'damaged layer: the list of its files is gone' }),
  );
  // A clean stop needs no check.
  expect(await daemon.kill('SIGTERM')).toBe(0);
  const checks = lines().filter(({ msg }) => msg === 'Checked the image store').length;
  await daemon.start();
  await daemon.cri.RemoveImage(spec(NGINX));
  expect(lines().filter(({ msg }) => msg === 'Checked the image store')).toHaveLength(checks);
});
