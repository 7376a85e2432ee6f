import { expect, test, vi } from 'vitest';
import { CommandError, type Run } from '#base/exec.ts';
import { silentLog } from '#base/log.ts';
import { planRemoval, removeLeftRules } from '../../../cni/left-rules.ts';

const rule = (id: string, rest: string): string => `-A ${rest.replace('@', `-m comment --comment "name: \\"n\\" id: \\"${id}\\""`)}`;
const [mine, other] = ['a'.repeat(64), 'b'.repeat(64)];
const saved = [
  '*nat',
  ':CNI-1 - [0:0]',
  rule(mine, 'POSTROUTING -s 10.1.0.2/32 @ -j CNI-1'),
  rule(other, 'POSTROUTING -s 10.1.0.3/32 @ -j CNI-2'),
  rule(mine, 'CNI-1 -d 10.1.0.0/24 @ -j ACCEPT'),
  rule(mine, 'CNI-1 ! -d 224.0.0.0/4 @ -j MASQUERADE'),
  rule(mine, 'CNI-HOSTPORT-DNAT -p tcp @ -m multiport --dports 80 -j CNI-DN-1'),
  '-A CNI-DN-1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.0.2:80',
  rule(mine, 'X -p udp @ -j CNI-HOSTPORT-SETMARK'),
  'COMMIT',
].join('\n');

test('planRemoval() removes the rules of one pod with its chains', () => {
  expect(planRemoval(saved, mine)?.split('\n')).toEqual([
    '*nat',
    rule(mine, 'POSTROUTING -s 10.1.0.2/32 @ -j CNI-1').replace('-A', '-D'),
    rule(mine, 'CNI-HOSTPORT-DNAT -p tcp @ -m multiport --dports 80 -j CNI-DN-1').replace('-A', '-D'),
    rule(mine, 'X -p udp @ -j CNI-HOSTPORT-SETMARK').replace('-A', '-D'),
    '-F CNI-1',
    '-F CNI-DN-1',
    '-X CNI-1',
    '-X CNI-DN-1',
    'COMMIT',
    '',
  ]);
  expect(planRemoval(saved, 'c'.repeat(64))).toBeUndefined();
});

test('removeLeftRules() looks again when the table has changed meanwhile, and passes over a family that is not there', async () => {
  let refused = 1;
  const run = vi.fn<Run>(async (file) => {
    if (file.startsWith('ip6')) throw new CommandError(file, 'command could not be started', {});
    if (file.endsWith('-save')) return { stdout: saved, stderr: '' };
    if (refused-- > 0) throw new CommandError(file, 'command failed with exit code 1', { exitCode: 1 });
    return { stdout: '', stderr: '' };
  });
  await removeLeftRules(mine, { run, log: silentLog, signal: AbortSignal.timeout(10_000) });
  expect(run.mock.calls.map(([file]) => file)).toEqual(['iptables-save', 'iptables-restore', 'iptables-save', 'iptables-restore', 'ip6tables-save']);
});
