import { expect, test } from 'vitest';
import { HostPorts } from '../../../../server/sandbox/host-ports.ts';

const mapping = (hostPort: number, hostIP = '', protocol: 'tcp' | 'udp' = 'tcp') => ({ hostPort, containerPort: 80, protocol, hostIP });

test.each([
  ['the same port', '', '', 'tcp', true],
  ['another protocol', '', '', 'udp', false],
  ['one address against all', '', '192.0.2.1', 'tcp', true],
  ['two addresses', '192.0.2.1', '192.0.2.2', 'tcp', false],
  ['all of a family', '0.0.0.0', '192.0.2.1', 'tcp', true],
  ['all of the other family', '::', '192.0.2.1', 'tcp', false],
  ['all of IPv6', '2001:db8::1', '::', 'tcp', true],
] as const)('claim() knows a conflict: %s', (_what, first, second, protocol, conflict) => {
  const ports = new HostPorts();
  expect(ports.claim({ id: 'one', portMappings: [mapping(80, first)] })).toBeUndefined();
  expect(ports.claim({ id: 'two', portMappings: [mapping(80, second, protocol)] })?.id).toBe(conflict ? 'one' : undefined);
});

test('claim() takes all or nothing, and release() lets go', () => {
  const ports = new HostPorts();
  ports.claim({ id: 'one', portMappings: [mapping(80), mapping(0)] });
  expect(ports.claim({ id: 'two', portMappings: [mapping(81), mapping(80, '::1')] })).toEqual({ id: 'one', port: '[::1]:80/tcp' });
  expect(ports.claim({ id: 'three', portMappings: [mapping(81), mapping(0)] })).toBeUndefined();
  ports.release('one');
  ports.release('one');
  expect(ports.claim({ id: 'two', portMappings: [mapping(80)] })).toBeUndefined();
  expect(ports.claim({ id: 'two', portMappings: [mapping(80)] })).toBeUndefined();
});
