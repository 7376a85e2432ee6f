import { expect, test, vi } from 'vitest';
import { CommandError, type Run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { Conntrack } from '../../../cni/conntrack.ts';
import { fakePod } from '../../fakes/cni-plugin-network.ts';

const port = (hostPort: number, protocol: 'tcp' | 'udp') => ({ hostPort, containerPort: 53, protocol, hostIP: '' });
const pod = { ...fakePod, portMappings: [port(53, 'udp'), port(53, 'tcp'), port(0, 'udp'), port(54, 'udp')] };
const signal = AbortSignal.timeout(10_000);

test('flush() forgets the flows of UDP host ports, of both families', async () => {
  const run = vi.fn<Run>(async () => ({ stdout: '', stderr: '' }));
  await new Conntrack(run, silentLog).flush(pod, signal);
  expect(run.mock.calls.map(([file, args]) => [file, ...args].join(' '))).toEqual([
    'conntrack -D -f ipv4 -p udp --orig-port-dst 53',
    'conntrack -D -f ipv6 -p udp --orig-port-dst 53',
    'conntrack -D -f ipv4 -p udp --orig-port-dst 54',
    'conntrack -D -f ipv6 -p udp --orig-port-dst 54',
  ]);
});

test('flush() counts "nothing to forget" as done, and tells once that the program is missing', async () => {
  const warn = vi.fn();
  const log = { ...silentLog, warn } as unknown as typeof silentLog;
  const nothing = new CommandError('conntrack', 'command failed with exit code 1', { exitCode: 1, stderr: '0 flow entries have been deleted.' });
  await new Conntrack(() => Promise.reject(nothing), log).flush(pod, signal);
  expect(warn).not.toHaveBeenCalled();
  const run = vi.fn<Run>(() => Promise.reject(new CommandError('conntrack', 'command could not be started', {})));
  const conntrack = new Conntrack(run, log);
  await conntrack.flush(pod, signal);
  await conntrack.flush(pod, signal);
  expect(run).toHaveBeenCalledOnce();
  expect(warn).toHaveBeenCalledOnce();
});
