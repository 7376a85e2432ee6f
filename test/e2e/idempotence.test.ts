import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, inject, test } from 'vitest';
import { ContainerState } from '../../proto/cri.ts';
import { crictlFor } from '../support/crictl.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { BUSYBOX } from '../support/images.ts';
import { ensureImage, makeContainer, makePod, runPod } from '../support/pod.ts';
import { holdingProxy } from '../support/proxy.ts';
import { lasting } from '../support/remains.ts';
import { until } from '../support/wait.ts';

/** So long the calls wait that are meant to run out, milliseconds. */
const SHORT = 1_500;

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;
  beforeEach(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
  });
  afterEach(async () => {
    daemon.faults.clear();
    await daemon[Symbol.asyncDispose]();
  });

  const pods = async (): Promise<string[]> => (await daemon.cri.ListPodSandbox()).items.map(({ id }) => id);
  const containers = async (): Promise<string[]> => (await daemon.cri.ListContainers()).containers.map(({ id }) => id);

  describe('RunPodSandbox()', () => {
    test('tells a caller who runs out of time what is slow, and the retry gets the pod', async () => {
      const pod = makePod(daemon);
      daemon.faults.set('bridge', 'ADD', 'hold');
      // a client's own error says "Deadline exceeded", and would come later than the daemon's
      await expect(daemon.cri.RunPodSandbox({ config: pod.config }, { deadlineMs: SHORT })).rejects.toMatchObject({
        code: status.DEADLINE_EXCEEDED,
        details: expect.stringMatching(/CNI ADD.*bridge/),
      });
      expect(await pods()).toEqual([]);

      const retry = runPod(daemon, pod);
      const other = runPod(daemon, pod);
      daemon.faults.clear();
      const id = await retry;
      expect(await other).toBe(id);
      expect(await pods()).toEqual([id]);
      expect(await runPod(daemon, pod)).toBe(id);
      expect(daemon.faults.calls('bridge', 'ADD')).toBe(1);
    });

    test('keeps a pod that was finished after its caller had gone out of all lists, over a restart too, until the retry', async () => {
      const pod = makePod(daemon);
      const gone = new AbortController();
      daemon.faults.set('bridge', 'ADD', 'hold');
      const left = daemon.cri.RunPodSandbox({ config: pod.config }, { signal: gone.signal });
      await until('the plugin', () => daemon.faults.calls('bridge', 'ADD') === 1);
      gone.abort();
      await expect(left).rejects.toMatchObject({ code: status.CANCELLED });
      daemon.faults.clear();
      await until('the pod', () => daemon.log().includes('Created sandbox'));
      expect(await pods()).toEqual([]);
      await daemon.restart();
      expect(await pods()).toEqual([]);
      const id = await runPod(daemon, pod);
      expect(await pods()).toEqual([id]);
      expect(daemon.faults.calls('bridge', 'ADD')).toBe(1);
    });

    test('lets a newer attempt take the place of one that nobody waits for', async () => {
      const pod = makePod(daemon);
      daemon.faults.set('bridge', 'ADD', 'hold');
      await expect(daemon.cri.RunPodSandbox({ config: pod.config }, { deadlineMs: SHORT })).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
      daemon.faults.clear();
      const newer = makePod(daemon, { name: pod.config.metadata.name, uid: pod.config.metadata.uid, attempt: 1 });
      const id = await runPod(daemon, newer);
      expect(await pods()).toEqual([id]);
      await until('the end of the older one', () => readdirSync(join(daemon.root, 'sandboxes')).length === 1);
    });

    test('undoes what nobody waits for when the retry asks for something else', async () => {
      const pod = makePod(daemon);
      daemon.faults.set('bridge', 'ADD', 'hold');
      await expect(daemon.cri.RunPodSandbox({ config: pod.config }, { deadlineMs: SHORT })).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
      const changed = { ...pod.config, annotations: { changed: 'yes' } };
      const retry = daemon.cri.RunPodSandbox({ config: changed });
      daemon.faults.clear();
      const { pod_sandbox_id } = await retry;
      expect((await daemon.cri.ListPodSandbox()).items).toMatchObject([{ id: pod_sandbox_id, annotations: { changed: 'yes' } }]);
      await expect(daemon.cri.RunPodSandbox({ config: pod.config })).rejects.toMatchObject({ code: status.ALREADY_EXISTS });
    });

    test('tells the real crictl the reason before it gives up, and gives it the pod when it asks again', async () => {
      const crictl = crictlFor(daemon);
      if (crictl === undefined) return;
      const file = join(daemon.directory, 'pod.json');
      const { metadata, log_directory } = makePod(daemon).config;
      writeFileSync(file, JSON.stringify({ metadata, log_directory, linux: { cgroup_parent: `${daemon.cgroup}/crictl` } }));
      daemon.faults.set('bridge', 'ADD', 'hold');
      await expect(crictl('runp', '-T', '2s', file)).rejects.toThrow(/CNI ADD.*bridge/);
      const retry = crictl('runp', file);
      daemon.faults.clear();
      expect((await retry).trim()).toMatch(/^[0-9a-f]{64}$/);
      expect(await pods()).toEqual([(await retry).trim()]);
      expect(daemon.faults.calls('bridge', 'ADD')).toBe(1);
    });

    test('serves equal calls side by side with one pod, and others meanwhile', async () => {
      const pod = makePod(daemon);
      const same = await Promise.all(Array.from({ length: 10 }, () => runPod(daemon, pod)));
      expect(new Set(same).size).toBe(1);
      const different = await Promise.all(Array.from({ length: 5 }, () => runPod(daemon, makePod(daemon))));
      expect(new Set([...same, ...different]).size).toBe(6);
      expect((await pods()).sort()).toEqual([...new Set([...same, ...different])].sort());
    });
  });

  describe('CreateContainer()', () => {
    const podWithImage = async () => {
      const pod = makePod(daemon);
      const podId = await runPod(daemon, pod);
      await ensureImage(daemon, BUSYBOX);
      daemon.faults.forget();
      return {
        pod,
        create: (config: ReturnType<typeof makeContainer>, deadlineMs = 60_000) =>
          daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config }, { deadlineMs }),
      };
    };

    test('joins a retry that brings a new file for the termination message, and shows the file in use', async () => {
      const { pod, create } = await podWithImage();
      const [first, second] = [makeContainer(pod), makeContainer(pod)];
      expect(first.mounts?.[2]?.host_path).not.toBe(second.mounts?.[2]?.host_path);
      daemon.faults.set(handler, 'create', 'hold');
      await expect(create(first, SHORT)).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED, details: expect.stringMatching(/OCI runtime/) });
      expect(await containers()).toEqual([]);
      const retry = create(second);
      daemon.faults.clear();
      const { container_id } = await retry;
      expect(await containers()).toEqual([container_id]);
      expect(daemon.faults.calls(handler, 'create')).toBe(1);
      const { status: found } = await daemon.cri.ContainerStatus({ container_id });
      expect(found?.mounts[2]?.host_path).toBe(first.mounts?.[2]?.host_path);
      await daemon.cri.StartContainer({ container_id });
    });

    test('lets a newer attempt take the place of one that nobody waits for, with the log that it made', async () => {
      const { pod, create } = await podWithImage();
      daemon.faults.set(handler, 'create', 'hold');
      await expect(create(makeContainer(pod), SHORT)).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
      await until('the log file', () => existsSync(join(pod.logDirectory, 'main/0.log')));
      daemon.faults.clear();
      const { container_id } = await create(makeContainer(pod, { attempt: 1 }));
      await daemon.cri.StartContainer({ container_id });
      await until('the end of the older one', () => readdirSync(join(daemon.root, 'containers')).length === 1);
      expect(await containers()).toEqual([container_id]);
      expect(readdirSync(join(pod.logDirectory, 'main'))).toEqual(['1.log']);
    });

    test('starts afresh when the retry asks for something else', async () => {
      const { pod, create } = await podWithImage();
      daemon.faults.set(handler, 'create', 'hold');
      await expect(create(makeContainer(pod), SHORT)).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
      const retry = create(makeContainer(pod, { command: ['sh', '-c', 'exit 3'] }));
      daemon.faults.clear();
      const { container_id } = await retry;
      await daemon.cri.StartContainer({ container_id });
      const found = await until('its end', async () => {
        const { status: now } = await daemon.cri.ContainerStatus({ container_id });
        return now?.state === ContainerState.CONTAINER_EXITED && now;
      });
      expect(found.exit_code).toBe(3);
      expect(await containers()).toEqual([container_id]);
    });

    test('gives the same container to a repeated call until it is started', async () => {
      const { pod, create } = await podWithImage();
      const { container_id } = await create(makeContainer(pod));
      expect((await create(makeContainer(pod))).container_id).toBe(container_id);
      await daemon.cri.StartContainer({ container_id });
      await expect(create(makeContainer(pod))).rejects.toMatchObject({ code: status.ALREADY_EXISTS });
      expect(await containers()).toEqual([container_id]);
    });
  });
});

describe('bounds', () => {
  test('what nobody claims is taken down after unclaimed_timeout', async () => {
    await using daemon = await startDaemon({ handler: 'crun', config: { runtime: { unclaimed_timeout: '10s' } } });
    daemon.faults.set('bridge', 'ADD', 'hold');
    await expect(daemon.cri.RunPodSandbox({ config: makePod(daemon).config }, { deadlineMs: SHORT })).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
    daemon.faults.clear();
    await until('the pod', () => daemon.log().includes('Created sandbox'));
    await until('its end', () => readdirSync(join(daemon.root, 'sandboxes')).length === 0, 60_000);
    expect(await lasting(daemon)).toEqual([]);
  });

  test('what is made for longer than creation_timeout is undone, and its callers are told', async () => {
    await using daemon = await startDaemon({ handler: 'crun', config: { runtime: { creation_timeout: '10s' } } });
    daemon.faults.set('bridge', 'ADD', 'hang');
    const pod = makePod(daemon);
    await expect(daemon.cri.RunPodSandbox({ config: pod.config })).rejects.toMatchObject({
      code: status.DEADLINE_EXCEEDED,
      details: expect.stringMatching(/CNI ADD.*bridge.*10 s/),
    });
    daemon.faults.clear();
    expect(await lasting(daemon)).toEqual([]);
    await runPod(daemon, pod);
  });
});

describe('PullImage()', () => {
  test('joins equal pulls, also after a caller has gone, and fetches every blob once', async () => {
    await using proxy = await holdingProxy(inject('registry'));
    await using daemon = await startDaemon({ handler: 'crun', registry: proxy.address });
    proxy.hold(/\/blobs\//);
    const pull = (deadlineMs: number) => daemon.cri.PullImage({ image: { image: BUSYBOX } }, { deadlineMs });
    await expect(pull(SHORT)).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED, details: expect.stringMatching(/pull/i) });
    expect((await daemon.cri.ListImages()).images).toEqual([]);
    const both = Promise.all([pull(60_000), pull(60_000)]);
    proxy.release();
    const [first, second] = await both;
    expect(first.image_ref).toBe(second.image_ref);
    const fetched = proxy.requests().filter((path) => path.includes('/blobs/'));
    expect(fetched.length).toBeGreaterThan(1);
    expect(fetched).toEqual([...new Set(fetched)]);
  });
});
