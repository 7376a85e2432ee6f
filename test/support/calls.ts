import { ContainerState, type ContainerStatus } from '../../proto/cri.ts';
import type { Daemon } from './daemon.ts';
import { until } from './wait.ts';

/** What `sh -c` prints in a container, trimmed. @throws when it fails or prints errors. */
export async function shell({ cri }: Daemon, container_id: string, script: string): Promise<string> {
  const { stdout, stderr, exit_code } = await cri.ExecSync({ container_id, cmd: ['sh', '-c', script], timeout: '20' });
  if (exit_code !== 0 || stderr.length > 0) throw new Error(`${script}: exit code ${exit_code}: ${stderr.toString()}${stdout.toString()}`);
  return stdout.toString().trim();
}

/** What `sh -c` prints in a container, errors after the rest, whether it fails or not; trimmed. */
export async function said({ cri }: Daemon, container_id: string, script: string): Promise<string> {
  const { stdout, stderr } = await cri.ExecSync({ container_id, cmd: ['sh', '-c', script], timeout: '20' });
  return `${stdout}${stderr}`.trim();
}

/** StopPodSandbox and RemovePodSandbox. */
export async function removePod({ cri }: Pick<Daemon, 'cri'>, pod_sandbox_id: string): Promise<void> {
  await cri.StopPodSandbox({ pod_sandbox_id });
  await cri.RemovePodSandbox({ pod_sandbox_id });
}

export async function containerStatus({ cri }: Daemon, container_id: string): Promise<ContainerStatus> {
  const { status } = await cri.ContainerStatus({ container_id });
  if (status === null) throw new Error('ContainerStatus answered without a status');
  return status;
}

/** The status of a container once it has ended. */
export function exited(daemon: Daemon, containerId: string): Promise<ContainerStatus> {
  return until('the end of the container', async () => {
    const status = await containerStatus(daemon, containerId);
    return status.state === ContainerState.CONTAINER_EXITED && status;
  });
}
