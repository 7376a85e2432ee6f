import { readFileSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { ContainerState, NamespaceMode, PodSandboxState } from '../../proto/cri.ts';
import { containerStatus, exited, removePod, shell } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX, NGINX } from '../support/images.ts';
import { ensureImage, makeContainer, makePod, readLog, runPod, startContainer, startPod } from '../support/pod.ts';
import { until } from '../support/wait.ts';

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let daemon: Daemon;

  beforeAll(async () => {
    daemon = await startDaemon({ handler, registry: inject('registry') });
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  test(
    'a pod has its own address, and its status says what the kubelet needs',
    proves(
      'PodSandboxConfig.metadata',
      'PodSandboxMetadata.name',
      'PodSandboxMetadata.uid',
      'PodSandboxMetadata.namespace',
      'PodSandboxMetadata.attempt',
      'PodSandboxConfig.labels',
      'PodSandboxConfig.annotations',
      'PodSandboxConfig.linux',
      'LinuxPodSandboxConfig.security_context',
      'LinuxSandboxSecurityContext.namespace_options',
    ),
    async () => {
      const pod = makePod(daemon, { annotations: { 'a/b': ' spaces \n and "quotes" ü ', empty: '' }, labels: { app: 'wéb' } });
      const before = BigInt(Date.now()) * 1_000_000n;
      const podId = await runPod(daemon, pod);
      expect(podId).toMatch(/^[0-9a-f]{64}$/);

      const { status: found } = await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId });
      expect(found).toMatchObject({
        id: podId,
        metadata: pod.config.metadata,
        state: PodSandboxState.SANDBOX_READY,
        labels: pod.config.labels,
        annotations: pod.config.annotations,
        runtime_handler: '',
        linux: { namespaces: { options: { network: NamespaceMode.POD, ipc: NamespaceMode.POD, pid: NamespaceMode.CONTAINER } } },
      });
      expect(found?.network?.ip.startsWith(`${daemon.subnet}.`)).toBe(true);
      expect(BigInt(found?.created_at ?? 0)).toBeGreaterThan(before);

      const { items } = await daemon.cri.ListPodSandbox({ filter: { label_selector: { 'io.kubernetes.pod.uid': pod.config.metadata.uid } } });
      expect(items).toMatchObject([{ id: podId, metadata: pod.config.metadata, state: PodSandboxState.SANDBOX_READY, annotations: pod.config.annotations }]);
      expect((await daemon.cri.ListPodSandbox({ filter: { label_selector: { app: 'other' } } })).items).toEqual([]);
      expect((await daemon.cri.ListPodSandbox({ filter: { id: podId, state: { state: PodSandboxState.SANDBOX_NOTREADY } } })).items).toEqual([]);

      await removePod(daemon, podId);
      await expect(daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId })).rejects.toMatchObject({ code: status.NOT_FOUND });
    },
  );

  test(
    'a container sees what the kubelet asked for',
    proves(
      'PodSandboxConfig.hostname',
      'PodSandboxConfig.log_directory',
      'PodSandboxConfig.dns_config',
      'DNSConfig.servers',
      'DNSConfig.searches',
      'DNSConfig.options',
    ),
    async () => {
      const { pod, podId, containerId, container } = await startPod(daemon);
      expect(await shell(daemon, containerId, 'hostname; cat /etc/hostname')).toBe(`${pod.config.metadata.name}\n${pod.config.metadata.name}`);
      expect(await shell(daemon, containerId, 'cat /etc/resolv.conf')).toBe(
        'search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5',
      );
      expect(await shell(daemon, containerId, 'cat /etc/hosts')).toContain('Kubernetes-managed');
      expect(await shell(daemon, containerId, 'echo "$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"')).toBe('10.96.0.1:443');
      expect(await shell(daemon, containerId, 'cat /var/run/secrets/kubernetes.io/serviceaccount/token')).toBe('a token');
      expect(await shell(daemon, containerId, 'touch /var/run/secrets/kubernetes.io/serviceaccount/x 2>&1 || true')).toContain('Read-only');
      expect(await shell(daemon, containerId, 'grep -E "^(Seccomp|NoNewPrivs):" /proc/self/status')).toBe('NoNewPrivs:\t0\nSeccomp:\t2');
      expect(await shell(daemon, containerId, 'df -k /dev/shm | tail -n 1 | tr -s " " | cut -d " " -f 2')).toBe('65536');
      expect(await shell(daemon, containerId, 'cat /proc/keys 2>/dev/null | wc -c; echo 1 2>/dev/null >/proc/sys/kernel/domainname || echo denied')).toBe(
        '0\ndenied',
      );
      expect(await shell(daemon, containerId, 'cat /proc/1/comm')).toBe('sleep');
      expect(await shell(daemon, containerId, 'ls /sys/class/net')).toBe('eth0\nlo');

      const found = await containerStatus(daemon, containerId);
      const { image } = await daemon.cri.ImageStatus({ image: { image: BUSYBOX } });
      expect(found).toMatchObject({
        metadata: container.metadata,
        state: ContainerState.CONTAINER_RUNNING,
        labels: container.labels,
        annotations: container.annotations,
        image: { image: BUSYBOX },
        image_id: image?.id,
        log_path: join(pod.logDirectory, 'main/0.log'),
        user: { linux: { uid: '0', gid: '0' } },
        resources: { linux: { cpu_shares: '102', memory_limit_in_bytes: String(64 * 1024 ** 2) } },
      });
      expect(found.image_ref).not.toBe('');
      expect(found.mounts.find(({ container_path }) => container_path === '/dev/termination-log')?.host_path).toBe(container.mounts?.[2]?.host_path);

      const { containers } = await daemon.cri.ListContainers({ filter: { pod_sandbox_id: podId, state: { state: ContainerState.CONTAINER_RUNNING } } });
      expect(containers).toMatchObject([{ id: containerId, pod_sandbox_id: podId, metadata: container.metadata, annotations: container.annotations }]);
      await removePod(daemon, podId);
      expect((await daemon.cri.ListContainers({ filter: { pod_sandbox_id: podId } })).containers).toEqual([]);
    },
  );

  test(
    'a server in a pod answers at its address and at its host port',
    proves('PodSandboxConfig.port_mappings', 'PortMapping.protocol', 'PortMapping.container_port', 'PortMapping.host_port'),
    async () => {
      const host = 20_000 + (Number.parseInt(daemon.network.slice(2, 6), 16) % 10_000);
      const { podId } = await startPod(daemon, { hostPorts: [{ container: 80, host }] }, { image: NGINX, name: 'nginx', command: [] });
      const { status: found } = await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId });
      const page = (address: string) =>
        until(`an answer from ${address}`, async () => {
          const response = await fetch(`http://${address}/`).catch(() => undefined);
          return response?.text();
        });
      expect(await page(found?.network?.ip ?? '')).toContain('Welcome to nginx!');
      expect(await page(`127.0.0.1:${host}`)).toContain('Welcome to nginx!');
      await removePod(daemon, podId);
    },
  );

  test('a static pod of the host network shows the node', proves('NamespaceOption.network'), async () => {
    const { podId, containerId } = await startPod(daemon, { hostNetwork: true, name: 'kube-apiserver-node' });
    const { status: found } = await daemon.cri.PodSandboxStatus({ pod_sandbox_id: podId });
    expect(found?.linux?.namespaces?.options?.network).toBe(NamespaceMode.NODE);
    expect(found?.network?.ip ?? '').toBe('');
    expect(await shell(daemon, containerId, 'hostname')).toBe(hostname());
    expect(await shell(daemon, containerId, 'cat /etc/resolv.conf')).toBe('search example.net\nnameserver 192.0.2.53');
    expect(await shell(daemon, containerId, 'ls /sys/class/net')).toContain(daemon.network);
    await removePod(daemon, podId);
  });

  test(
    'containers of a pod share processes when it asks for that',
    proves('NamespaceOption.pid', 'LinuxContainerSecurityContext.namespace_options'),
    async () => {
      const { podId, containerId } = await startPod(daemon, { shareProcessNamespace: true });
      expect(await shell(daemon, containerId, 'cat /proc/1/comm; cat /proc/[0-9]*/comm')).toMatch(/^(catatonit|pause)\n[\s\S]*sleep/);
      await removePod(daemon, podId);
    },
  );

  test.each([
    { script: 'exit 0', exit_code: 0, reason: 'Completed' },
    { script: 'exit 7', exit_code: 7, reason: 'Error' },
    { script: 'x=$(head -c 200000000 /dev/zero | tr "\\0" x); echo $x | wc -c', exit_code: 137, reason: 'OOMKilled' },
  ])('a container that ran "$script" is EXITED with $exit_code, $reason', async ({ script, exit_code, reason }) => {
    const { podId, containerId } = await startPod(daemon, {}, { command: ['sh', '-c', script] });
    const found = await exited(daemon, containerId);
    expect(found).toMatchObject({ exit_code, reason });
    expect(BigInt(found.started_at)).toBeGreaterThan(BigInt(found.created_at));
    expect(BigInt(found.finished_at)).toBeGreaterThan(BigInt(found.started_at));
    await removePod(daemon, podId);
  });

  test('RemoveContainer() takes a running container away, and its record, not its log', async () => {
    const { podId, containerId, logPath } = await startPod(daemon, {}, { command: ['sh', '-c', 'echo hello; sleep 1000'] });
    await until('the line', () => readLog(logPath).length > 0);
    await daemon.cri.RemoveContainer({ container_id: containerId });
    await expect(daemon.cri.ContainerStatus({ container_id: containerId })).rejects.toMatchObject({ code: status.NOT_FOUND });
    expect(readLog(logPath).map(({ text }) => text)).toEqual(['hello']);
    await removePod(daemon, podId);
  });

  test('the termination message is in the file that the kubelet reads', async () => {
    const { podId, containerId } = await startPod(daemon, {}, { command: ['sh', '-c', 'echo "last words" >/dev/termination-log; exit 1'] });
    const found = await exited(daemon, containerId);
    const mount = found.mounts.find(({ container_path }) => container_path === '/dev/termination-log');
    expect(readFileSync(mount?.host_path ?? '', 'utf8')).toBe('last words\n');
    await removePod(daemon, podId);
  });

  test('a program that is not there is an error with its name, and the pod can be used after it', async () => {
    const pod = makePod(daemon);
    const podId = await runPod(daemon, pod);
    await ensureImage(daemon, BUSYBOX);
    const config = makeContainer(pod, { command: ['/no/such/program'] });
    const attempt = async (): Promise<void> => {
      const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config });
      await daemon.cri.StartContainer({ container_id });
    };
    await expect(attempt()).rejects.toThrow(/no\/such\/program/);
    const { containers } = await daemon.cri.ListContainers({ filter: { pod_sandbox_id: podId } });
    expect(containers.filter(({ state }) => state !== ContainerState.CONTAINER_EXITED)).toEqual([]);
    const { containerId } = await startContainer(daemon, pod, podId, { attempt: 1 });
    expect((await containerStatus(daemon, containerId)).state).toBe(ContainerState.CONTAINER_RUNNING);
    await removePod(daemon, podId);
  });

  test(
    'user, read-only root and privilege are as asked',
    proves('LinuxSandboxSecurityContext.privileged', 'LinuxContainerSecurityContext.privileged', 'LinuxContainerSecurityContext.no_new_privs'),
    async () => {
      const pod = makePod(daemon, { privileged: true });
      const podId = await runPod(daemon, pod);
      await ensureImage(daemon, BUSYBOX);
      const run = async (name: string, security: object): Promise<string> => {
        const plain = makeContainer(pod, { name });
        const config = { ...plain, linux: { ...plain.linux, security_context: { ...plain.linux?.security_context, ...security } } };
        const { container_id } = await daemon.cri.CreateContainer({ pod_sandbox_id: podId, config, sandbox_config: pod.config });
        await daemon.cri.StartContainer({ container_id });
        return container_id;
      };
      const user = await run('user', { run_as_user: { value: '1000' }, run_as_group: { value: '2000' }, supplemental_groups: ['3000'], no_new_privs: true });
      expect(await shell(daemon, user, 'id -u; id -g; id -G; grep NoNewPrivs /proc/self/status')).toBe('1000\n2000\n2000 3000\nNoNewPrivs:\t1');
      expect((await containerStatus(daemon, user)).user?.linux).toMatchObject({ uid: '1000', gid: '2000' });
      const frozen = await run('frozen', { readonly_rootfs: true });
      expect(await shell(daemon, frozen, 'touch /x 2>&1 || true')).toContain('Read-only');
      const privileged = await run('privileged', { privileged: true });
      expect(await shell(daemon, privileged, 'cd /proc/sys/net/ipv4; echo "$(cat ip_forward)" >ip_forward; grep Seccomp: /proc/self/status')).toBe(
        'Seccomp:\t0',
      );
      expect(await shell(daemon, privileged, 'ls /dev/kmsg')).toBe('/dev/kmsg');
      await removePod(daemon, podId);
    },
  );

  test('stats of containers and pods are measured', async () => {
    const { pod, podId, containerId } = await startPod(daemon, {}, { command: ['sh', '-c', 'head -c 5000000 /dev/zero >/file; while true; do :; done'] });
    const stats = await until('usage', async () => {
      const { stats: found } = await daemon.cri.ContainerStats({ container_id: containerId });
      const written = Number(found?.writable_layer?.used_bytes?.value ?? 0);
      return Number(found?.cpu?.usage_core_nano_seconds?.value ?? 0) > 0 && written >= 5_000_000 && found;
    });
    expect(stats.attributes).toMatchObject({ id: containerId, metadata: { name: 'main' } });
    expect(Number(stats.memory?.working_set_bytes?.value)).toBeGreaterThan(0);
    expect(stats.writable_layer?.fs_id?.mountpoint).toMatch(/^\//);
    const { stats: listed } = await daemon.cri.ListContainerStats({ filter: { label_selector: { 'io.kubernetes.pod.uid': pod.config.metadata.uid } } });
    expect(listed.map(({ attributes }) => attributes?.id)).toEqual([containerId]);
    const { stats: podStats } = await daemon.cri.PodSandboxStats({ pod_sandbox_id: podId });
    expect(podStats?.linux?.network?.default_interface?.name).toBe('eth0');
    expect(Number(podStats?.linux?.memory?.working_set_bytes?.value)).toBeGreaterThan(0);
    expect(Number(podStats?.linux?.process?.process_count?.value)).toBeGreaterThan(0);
    await removePod(daemon, podId);
  });

  test('images are pulled by tag and by digest, listed, and removed with all their names', async () => {
    const image = 'gcr.io/k8s-staging-cri-tools/test-image-1:latest';
    const { image_ref } = await daemon.cri.PullImage({ image: { image } });
    const { image: found } = await daemon.cri.ImageStatus({ image: { image } });
    expect(found).toMatchObject({ id: image_ref, repo_tags: [image] });
    expect(Number(found?.size)).toBeGreaterThan(0);
    const [digest = ''] = found?.repo_digests ?? [];
    expect(digest).toMatch(/^gcr\.io\/k8s-staging-cri-tools\/test-image-1@sha256:[0-9a-f]{64}$/);
    expect((await daemon.cri.PullImage({ image: { image: digest } })).image_ref).toBe(image_ref);
    expect((await daemon.cri.ListImages({ filter: { image: { image } } })).images.map(({ id }) => id)).toEqual([image_ref]);
    await daemon.cri.RemoveImage({ image: { image: image_ref } });
    expect((await daemon.cri.ImageStatus({ image: { image } })).image).toBeNull();
    expect((await daemon.cri.ImageStatus({ image: { image: digest } })).image).toBeNull();
    await daemon.cri.RemoveImage({ image: { image } });
    await expect(daemon.cri.PullImage({ image: { image: 'gcr.io/k8s-staging-cri-tools/none:latest' } })).rejects.toThrow(/k8s-staging-cri-tools\/none/);
    const { image_filesystems } = await daemon.cri.ImageFsInfo();
    expect(image_filesystems[0]?.fs_id?.mountpoint).toMatch(/^\//);
  });

  test('what is asked for and not known is refused by name', async () => {
    const pod = makePod(daemon);
    await expect(daemon.cri.RunPodSandbox({ config: pod.config, runtime_handler: 'nope' })).rejects.toThrow(/^(?=.*nope)(?=.*crun)(?=.*runc)/);
  });

  test('sysctls of the pod are set in it', proves('LinuxPodSandboxConfig.sysctls'), async () => {
    const { podId, containerId } = await startPod(daemon, { sysctls: { 'net.ipv4.ip_unprivileged_port_start': '80', 'kernel.shm_rmid_forced': '1' } });
    expect(await shell(daemon, containerId, 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced')).toBe('80\n1');
    await removePod(daemon, podId);
  });

  test('a hosts file that the container writes to is the pod file itself', async () => {
    const { pod, podId, containerId } = await startPod(daemon);
    writeFileSync(join(pod.directory, 'etc-hosts'), '127.0.0.1 changed\n');
    expect(await shell(daemon, containerId, 'cat /etc/hosts')).toBe('127.0.0.1 changed');
    await removePod(daemon, podId);
  });
});
