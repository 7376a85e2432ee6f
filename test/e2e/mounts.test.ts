import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as grpc } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { MS, mount as mountPath, umount } from '../../base/sys.ts';
import { type Init, type Mount, MountPropagation, SecurityProfileProfileType } from '../../proto/cri.ts';
import { said } from '../support/calls.ts';
import { type Daemon, type Handler, startDaemon } from '../support/daemon.ts';
import { proves } from '../support/fields.ts';
import { BUSYBOX } from '../support/images.ts';
import { type ContainerOptions, ensureImage, idMapping, makeContainer, makePod, type Pod, runPod } from '../support/pod.ts';
import { endEmpty } from '../support/remains.ts';
import { findTool } from '../support/tool.ts';
import { until } from '../support/wait.ts';

const { PROPAGATION_BIDIRECTIONAL, PROPAGATION_HOST_TO_CONTAINER } = MountPropagation;

/** An OCI runtime whose `features` knows neither recursive read-only nor idmapped mounts, as old ones have it. */
const oldRuntime = (program: string): string => `#!/bin/sh
for word in "$@"; do
  [ "$word" != features ] || exec echo '{"ociVersionMin": "1.0.0", "ociVersionMax": "1.0.2", "mountOptions": ["ro"], "linux": {"namespaces": ["mount", "user"]}}'
done
exec ${program} "$@"
`;

describe.each<Handler>(['crun', 'runc'])('with %s', (handler) => {
  let files: string;
  let daemon: Daemon;
  let pod: Pod;
  let podId: string;
  let count = 0;

  beforeAll(async () => {
    files = mkdtempSync('/tmp/m');
    chmodSync(files, 0o711);
    writeFileSync(join(files, 'old'), oldRuntime(findTool(handler) ?? ''), { mode: 0o755 });
    daemon = await startDaemon({ handler, registry: inject('registry'), config: { 'runtime.runtimes.old': { runtime_path: join(files, 'old') } } });
    await ensureImage(daemon, BUSYBOX);
    pod = makePod(daemon);
    podId = await runPod(daemon, pod);
  });
  afterAll(() => endEmpty(daemon, podId).finally(() => rmSync(files, { recursive: true, force: true })));

  async function create(mounts: readonly Init<Mount>[], options: ContainerOptions = {}, [of, id] = [pod, podId]): Promise<string> {
    count += 1;
    const plain = makeContainer(of, { name: `c${count}`, ...options });
    const { container_id } = await daemon.cri.CreateContainer({
      pod_sandbox_id: id,
      config: { ...plain, mounts: [...(plain.mounts ?? []), ...mounts] },
      sandbox_config: of.config,
    });
    return container_id;
  }

  async function start(mounts: readonly Init<Mount>[], options: ContainerOptions = {}): Promise<string> {
    const container_id = await create(mounts, options);
    await daemon.cri.StartContainer({ container_id });
    return container_id;
  }

  /** A tmpfs of its own at a new directory, with this propagation. */
  function mounted(name: string, propagation: number): string {
    const path = join(files, name);
    mkdirSync(path);
    mountPath('tmpfs', path, 'tmpfs');
    mountPath('none', path, 'none', propagation);
    return path;
  }

  test('what a container mounts below a bidirectional mount is seen by the node and by its neighbours', proves('Mount.propagation'), async () => {
    const shared = mounted('both', MS.SHARED);
    try {
      const tree = { host_path: shared, container_path: '/tree' };
      const neighbour = await start([{ ...tree, propagation: PROPAGATION_HOST_TO_CONTAINER }]);
      const mounter = await start([{ ...tree, propagation: PROPAGATION_BIDIRECTIONAL }], {
        security: { capabilities: { add_capabilities: ['SYS_ADMIN'] }, seccomp: { profile_type: SecurityProfileProfileType.Unconfined } },
      });
      expect(await said(daemon, mounter, 'mkdir /tree/made && mount -t tmpfs none /tree/made && touch /tree/made/file && ls /tree/made')).toBe('file');
      expect(await said(daemon, neighbour, 'ls /tree/made')).toBe('file');
      expect(mountsBelow(shared)).toEqual([join(shared, 'made')]);
      for (const container_id of [mounter, neighbour]) await daemon.cri.RemoveContainer({ container_id });
      umount(join(shared, 'made'));
    } finally {
      umount(shared, 2); // MNT_DETACH
    }
  });

  test.each([
    ['a private mount', 'private', MS.PRIVATE, PROPAGATION_HOST_TO_CONTAINER, 'which is not a shared or slave mount'],
    ['a private mount', 'private-both', MS.PRIVATE, PROPAGATION_BIDIRECTIONAL, 'which is not a shared mount'],
    ['a slave mount', 'slave-both', MS.SLAVE, PROPAGATION_BIDIRECTIONAL, 'which is not a shared mount'],
  ])('%s cannot take part in the propagation that is asked for (%s)', async (_what, name, flag, propagation, why) => {
    const path = mounted(name, MS.SHARED);
    try {
      if (flag === MS.SLAVE) {
        mountPath(path, path, 'none', MS.BIND); // a peer, whose slave it becomes
        mountPath('none', path, 'none', MS.SLAVE);
      } else mountPath('none', path, 'none', flag);
      await expect(create([{ host_path: path, container_path: '/tree', propagation }])).rejects.toMatchObject({
        code: grpc.INVALID_ARGUMENT,
        details: expect.stringMatching(new RegExp(`config\\.mounts\\[3\\]\\.host_path: "${path}" lies on .*, ${why}`)),
      });
      if (flag === MS.SLAVE) await start([{ host_path: path, container_path: '/tree', propagation: PROPAGATION_HOST_TO_CONTAINER }]);
    } finally {
      if (flag === MS.SLAVE) umount(path, 2);
      umount(path, 2);
    }
  });

  test('recursive read-only is refused where it would not hold, by its name', proves('Mount.recursive_read_only'), async () => {
    const tree = { host_path: files, container_path: '/tree', recursive_read_only: true };
    const refused = (mount: Init<Mount>, why: string) =>
      expect(create([mount])).rejects.toMatchObject({
        code: grpc.INVALID_ARGUMENT,
        details: expect.stringContaining(`config.mounts[3].recursive_read_only: ${why}`),
      });
    await refused(tree, 'true needs readonly');
    await refused({ ...tree, readonly: true, propagation: PROPAGATION_HOST_TO_CONTAINER }, 'true needs propagation PRIVATE');
  });

  test('a handler that says it cannot is believed: Status tells, and what needs it is refused by name', async () => {
    const told = await until('the handlers to be known', async () => {
      const { runtime_handlers } = await daemon.cri.Status({});
      const all = Object.fromEntries(runtime_handlers.map(({ name, features }) => [name, features]));
      return all['']?.recursive_read_only_mounts === true && all; // crun 1.8 is tried after the start
    });
    expect(told.old).toEqual({ recursive_read_only_mounts: false, user_namespaces: false });
    const old = makePod(daemon);
    const { pod_sandbox_id } = await daemon.cri.RunPodSandbox({ config: old.config, runtime_handler: 'old' });
    const at = { host_path: files, container_path: '/tree' };
    const invalid = (what: string) => ({ code: grpc.INVALID_ARGUMENT, details: expect.stringContaining(`${what} not supported by the runtime handler`) });
    await expect(create([{ ...at, readonly: true, recursive_read_only: true }], {}, [old, pod_sandbox_id])).rejects.toMatchObject(
      invalid('config.mounts[3].recursive_read_only:'),
    );
    const mappings = { uidMappings: [idMapping(65_536)], gidMappings: [idMapping(65_536)] };
    await expect(create([{ ...at, ...mappings }], {}, [old, pod_sandbox_id])).rejects.toMatchObject(
      invalid('config.mounts[3].uidMappings: idmapped mounts are'),
    );
    await expect(daemon.cri.RunPodSandbox({ config: makePod(daemon, { usersFrom: 65_536 }).config, runtime_handler: 'old' })).rejects.toMatchObject({
      code: grpc.FAILED_PRECONDITION,
      details: expect.stringContaining('userns_options.mode: runtime handler "old" does not support user namespaces'),
    });
    await daemon.cri.StopPodSandbox({ pod_sandbox_id });
    await daemon.cri.RemovePodSandbox({ pod_sandbox_id });
  });
});

/** Mount points of the node below a directory. */
function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${directory}/`));
}
