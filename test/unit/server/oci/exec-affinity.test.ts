import { expect, test } from 'vitest';
import { withExecAffinity } from '../../../../server/oci/exec-affinity.ts';

test.each([
  ['', '2-5', undefined],
  ['first', '', undefined],
  ['first', '2-5', '2'],
  ['first', '7,3-4,1', '1'],
  ['first', '11', '11'],
] as const)('withExecAffinity() with %j and the cpuset %j gives the CPU %j', (affinity, cpuset, cpu) => {
  const execCPUAffinity = cpu === undefined ? undefined : { initial: cpu, final: cpu };
  expect(withExecAffinity({ cwd: '/' }, affinity, cpuset)).toEqual({ cwd: '/', ...(execCPUAffinity && { execCPUAffinity }) });
});
