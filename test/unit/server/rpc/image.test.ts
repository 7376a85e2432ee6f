import { status } from '@grpc/grpc-js';
import { expect, test, vi } from 'vitest';
import { CriError } from '#base/errors.ts';
import { imageStatus, listImages, streamImages, userOfImage } from '../../../../server/rpc/image.ts';
import type { Image, ImageConfig, ImageId } from '../../../../storage/storage.ts';
import { serveApi } from '../../../fakes/api.ts';

const config: ImageConfig = { entrypoint: [], cmd: [], env: [], user: '', workingDir: '', stopSignal: '', volumes: [], labels: {} };

function image(serial: number, changed: Partial<Image> = {}): Image {
  const id = `sha256:${String(serial).padStart(64, '0')}` as ImageId;
  const names = { repoTags: [`registry.example/app:${serial}`], repoDigests: [`registry.example/app@${id}`] };
  return { id, ...names, sizeBytes: 5_000_000_000, config, layers: [], pinned: false, architecture: 'amd64', os: 'linux', ...changed };
}

/** As much of the store as the RPCs use. */
function parts(images: readonly Image[]): Parameters<typeof listImages>[0] {
  return { storage: { images: () => images, find: (name: string) => images.find(({ id, repoTags }) => id === name || repoTags.includes(name)) } } as never;
}

test.each([
  ['', { uid: { value: '0' }, username: '' }],
  ['0', { uid: { value: '0' }, username: '' }],
  ['1000:2000', { uid: { value: '1000' }, username: '' }],
  ['nobody', { uid: null, username: 'nobody' }],
  ['nobody:4', { uid: null, username: 'nobody' }],
  [':5', { uid: { value: '0' }, username: '' }],
])('imageStatus() gives exactly one of uid and username for the user %o', async (user, expected) => {
  await using api = await serveApi({ ImageStatus: imageStatus(parts([image(1, { config: { ...config, user } })])) });
  const { image: found } = await api.call('ImageStatus', { image: { image: 'registry.example/app:1' } });
  expect(found).toMatchObject({ ...expected, size: '5000000000', repo_tags: ['registry.example/app:1'] });
});

test('imageStatus() answers without an image for one that is not there', async () => {
  await using api = await serveApi({ ImageStatus: imageStatus(parts([])) });
  expect(await api.call('ImageStatus', { image: { image: 'gone' } })).toMatchObject({ image: null });
});

test('imageStatus() reads the whole config for a verbose answer alone, and names the image whose config cannot be read', async () => {
  const one = image(1, { layers: ['sha256:top' as never] });
  const { storage } = parts([one]);
  const unreadable = new CriError('unknown', `config of image ${one.id} cannot be read`);
  const readConfig = vi.fn<() => Promise<unknown>>().mockResolvedValueOnce({ os: 'linux' }).mockRejectedValueOnce(unreadable);
  await using api = await serveApi({ ImageStatus: imageStatus({ storage: { ...storage, readConfig } as never }) });
  await api.call('ImageStatus', { image: { image: one.id } });
  expect(readConfig).not.toHaveBeenCalled();
  const { info } = await api.call('ImageStatus', { image: { image: one.id }, verbose: true });
  expect(JSON.parse(info.info ?? '')).toEqual({ chainID: 'sha256:top', imageSpec: { os: 'linux' } });
  await expect(api.call('ImageStatus', { image: { image: one.id }, verbose: true })).rejects.toMatchObject({
    code: status.UNKNOWN,
    details: unreadable.message,
  });
});

test.each([0, 1, 100, 101, 350])('streamImages() sends each of %i images once, in portions', async (count) => {
  const images = Array.from({ length: count }, (_, index) => image(index));
  await using api = await serveApi({ StreamImages: streamImages(parts(images)), ListImages: listImages(parts(images)) });
  const portions: string[][] = [];
  for await (const { images: portion } of api.stream('StreamImages')) portions.push(portion.map(({ id }: { id: string }) => id));
  expect(portions.flat()).toEqual(images.map(({ id }) => id));
  expect(portions.every((portion) => portion.length >= 1 && portion.length <= 100)).toBe(true);
  expect((await api.call('ListImages')).images.map(({ id }) => id)).toEqual(portions.flat());
});

test('streamImages() and listImages() apply the filter', async () => {
  const images = [image(1), image(2)];
  await using api = await serveApi({ StreamImages: streamImages(parts(images)), ListImages: listImages(parts(images)) });
  const filter = { image: { image: 'registry.example/app:2' } };
  const streamed: string[] = [];
  for await (const { images: portion } of api.stream('StreamImages', { filter })) streamed.push(...portion.map(({ id }: { id: string }) => id));
  expect(streamed).toEqual([images[1]?.id]);
  expect((await api.call('ListImages', { filter })).images).toHaveLength(1);
  expect((await api.call('ListImages', { filter: { image: { image: 'none' } } })).images).toEqual([]);
});

test('userOfImage() names the container with the image as root or volume, and the pod with it as pause', () => {
  const records = (items: object[]): never => new Map(items.map((item, index) => [index, item])) as never;
  const used = {
    containers: records([
      { id: 'c1', imageId: 'a' },
      { id: 'c2', imageId: 'a', imageVolumes: ['b', 'c'] },
    ]),
    sandboxes: records([{ id: 'p1', pauseImage: 'd' }, { id: 'p2' }]),
  };
  expect(['a', 'c', 'd', 'e'].map((id) => userOfImage(used, id))).toEqual(['container c1', 'container c2', 'pod sandbox p1', undefined]);
});
