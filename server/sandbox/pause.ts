import { writeFileSync } from 'node:fs';
import { chmod, copyFile, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, isErrno } from '#base/errors.ts';
import { labelFile } from '#base/label-file.ts';
import { startMonitor } from '../../conmon/conmon.ts';
import { containerCgroup } from '../oci/cgroup-path.ts';
import { buildPauseSpec, type PauseSpecInput } from '../oci/pause-spec.ts';
import { formatLabel, type SelinuxPolicy } from '../oci/selinux-label.ts';
import type { Parts } from '../parts.ts';
import { timed } from '../parts.ts';
import { sandboxLabels } from './labels.ts';
import type { SandboxRecord } from './sandbox.ts';

/**
 * Makes the root file system of the built-in pause: a static `catatonit -P` that sleeps and reaps, and the empty
 * directories a runtime mounts on. It is read-only inside every pod, so that one directory serves all of them.
 * @throws {CriError} failedPrecondition when the binary is not there; the daemon then starts without a built-in pause.
 */
export async function makePauseRootfs(rootfs: string, binary: string, policy: SelinuxPolicy | undefined): Promise<void> {
  await chmod(rootfs, 0o755); // runtimes open it as the root user of a pod's user namespace
  for (const directory of ['proc', 'sys', 'dev', 'etc']) await mkdir(join(rootfs, directory), { recursive: true, mode: 0o755 });
  const temporary = join(rootfs, `.pause.${process.pid}`);
  try {
    // A new file each time: a running pause keeps the old one, and writing to a running binary fails.
    await copyFile(binary, temporary);
    await chmod(temporary, 0o755);
    if (policy !== undefined) labelForAll(rootfs, await readdir(rootfs), formatLabel(policy.file));
    await rename(temporary, join(rootfs, 'pause'));
  } catch (err) {
    await rm(temporary, { force: true });
    if (isErrno(err, 'ENOENT')) throw new CriError('failedPrecondition', `image.pause_binary: "${binary}" does not exist`, { cause: err });
    throw err;
  }
}

/** Every pod's pause process runs it, whatever its categories: so it has none. Nobody writes to it. */
function labelForAll(rootfs: string, names: readonly string[], label: string): void {
  for (const name of ['', ...names]) labelFile(join(rootfs, name), label);
}

type Needs = Pick<Parts, 'config' | 'storage' | 'sandboxes' | 'runtimes' | 'monitors' | 'host' | 'paths' | 'observeStage' | 'timelines'>;

/** Creates and starts a pod's pause process. What it leaves when it fails is named by the record. */
export async function startPause(
  parts: Needs,
  record: SandboxRecord,
  { signal, stage }: { readonly signal: AbortSignal; readonly stage: (name: string) => void },
): Promise<NonNullable<SandboxRecord['pause']>> {
  const { config, paths } = parts;
  const runtime = parts.runtimes.get(record.handler);
  if (runtime === undefined) throw new CriError('failedPrecondition', `runtime handler "${record.handler}" is not configured any more`);
  const bundle = paths.bundle(record.id);
  const image = record.pauseImage === undefined ? undefined : parts.storage.find(record.pauseImage);
  const labels = sandboxLabels(parts, record);
  let rootfs = paths.pauseRootfs;
  let args = ['/pause', '-P'];
  if (image !== undefined) {
    stage('mounting the pause image');
    rootfs = join(bundle, 'rootfs');
    await mkdir(rootfs);
    await parts.storage.createRootfs(parts.sandboxes.directory(record.id));
    await parts.storage.mountRootfs(image.id, parts.sandboxes.directory(record.id), rootfs, { userns: record.namespaces.user, label: labels?.mount });
    args = config.image.pauseCommand.length > 0 ? [...config.image.pauseCommand] : [...image.config.entrypoint, ...image.config.cmd];
  }
  const spec = buildPauseSpec({
    id: record.id,
    config: record.config,
    namespaces: renameNamespaces(record),
    hostname: '', // set when the UTS namespace was pinned
    args,
    env: image?.config.env ?? [],
    rootfs,
    cgroupsPath: containerCgroup(config.runtime.cgroupManager, record.config.linux?.cgroup_parent ?? '', record.id).cgroupsPath,
    host: parts.host,
    labels,
  });
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec), { mode: 0o600 });
  stage('creating the pause process');
  const started = await timed(
    parts,
    'pause_create',
    () =>
      startMonitor(
        {
          id: record.id,
          bundle,
          runtimePath: config.runtime.runtimes[record.handler]?.runtimePath ?? '',
          runtimeRoot: config.runtime.runtimes[record.handler]?.runtimeRoot ?? '',
          systemdCgroup: config.runtime.cgroupManager === 'systemd',
          conmonPath: config.runtime.conmon,
          logPath: undefined,
          exitDir: paths.exits,
          terminal: false,
          stdin: false,
          stdinOnce: false,
          place: (pid) => parts.monitors.place(pid),
        },
        { signal },
      ),
    { podId: record.id },
  );
  stage('starting the pause process');
  await timed(parts, 'pause_start', () => runtime.start(record.id, { signal }), { podId: record.id });
  return started;
}

function renameNamespaces({ namespaces: { net, ...others } }: SandboxRecord): PauseSpecInput['namespaces'] {
  return { ...(net === undefined ? {} : { network: net }), ...others };
}
