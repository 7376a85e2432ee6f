/** Where commands that are executed in a container run: on all of its CPUs, or on the first of its cpuset only. */
export type ExecCpuAffinity = '' | 'first';

/**
 * A container's process as a command takes it over, kept to the first CPU of the container's cpuset: probes and shells then
 * leave alone the CPUs that a workload busy-polls on. Without a cpuset there is nothing to choose from. OCI runtimes that do
 * not know the field (runc before 1.3, crun before 1.20) pass over it.
 * Source: OCI runtime-spec 1.2.1, process.execCPUAffinity.
 */
export function withExecAffinity(process: object, affinity: ExecCpuAffinity, cpuset: string): object {
  if (affinity === '' || cpuset === '') return process;
  const first = String(Math.min(...cpuset.split(',').map((range) => Number.parseInt(range, 10))));
  return { ...process, execCPUAffinity: { initial: first, final: first } };
}
