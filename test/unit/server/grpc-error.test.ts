import { status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CriError, type ErrorKind } from '#base/errors.ts';
import { toGrpc } from '../../../server/grpc-error.ts';

const codes: [ErrorKind, status][] = [
  ['notFound', status.NOT_FOUND],
  ['alreadyExists', status.ALREADY_EXISTS],
  ['invalidArgument', status.INVALID_ARGUMENT],
  ['failedPrecondition', status.FAILED_PRECONDITION],
  ['deadlineExceeded', status.DEADLINE_EXCEEDED],
  ['cancelled', status.CANCELLED],
  ['unavailable', status.UNAVAILABLE],
  ['unimplemented', status.UNIMPLEMENTED],
  ['resourceExhausted', status.RESOURCE_EXHAUSTED],
  ['unknown', status.UNKNOWN],
];

test.each(codes)('toGrpc() maps a CriError of kind %s', (kind, code) => {
  expect(toGrpc(new CriError(kind, 'find container 1: no such container'))).toEqual({ code, details: 'find container 1: no such container' });
});

test('toGrpc() never takes a code from what was thrown', () => {
  const aborted = AbortSignal.abort().reason;
  expect(aborted.code).toBe(20);
  expect(toGrpc(aborted).code).toBe(status.CANCELLED);
  expect(toGrpc(Object.assign(new Error('no'), { code: 5 })).code).toBe(status.UNKNOWN);
});

test('toGrpc() answers a TimeoutError with DEADLINE_EXCEEDED', async () => {
  const signal = AbortSignal.timeout(1);
  await new Promise((resolve) => signal.addEventListener('abort', resolve));
  expect(toGrpc(signal.reason).code).toBe(status.DEADLINE_EXCEEDED);
});

test('toGrpc() names the failure that came first when a clean-up failed too', () => {
  const first = new CriError('notFound', 'find image x: no such image');
  expect(toGrpc(new SuppressedError(new Error('umount: EBUSY'), first))).toEqual({ code: status.NOT_FOUND, details: 'find image x: no such image' });
});

test('toGrpc() gives the causes of an unexpected failure', () => {
  const err = new Error('create container 1', { cause: new Error('crun: exit code 1') });
  expect(toGrpc(err)).toEqual({ code: status.UNKNOWN, details: 'create container 1: crun: exit code 1' });
});

test('toGrpc() keeps the secrets of URLs out of events', () => {
  const { details } = toGrpc(new Error('get "https://joe:pw@cdn.test/blob?X-Sig=abc&t=1": 403, from https://k:s@reg.test/v2/'));
  expect(details).toBe('get "https://cdn.test/blob?…": 403, from https://reg.test/v2/');
});

test('toGrpc() cuts details at 4 KiB, between characters', () => {
  const { details } = toGrpc(new Error('€'.repeat(3000)));
  expect(Buffer.byteLength(details)).toBeLessThanOrEqual(4096);
  expect(details).toMatch(/^€+…$/);
});

test('toGrpc() takes anything, and its details can be sent', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.anything(),
        fc.string({ unit: 'binary', maxLength: 9000 }).map((text) => new Error(`${text}\ud800`)),
      ),
      (thrown) => {
        const { code, details } = toGrpc(thrown);
        expect(Object.values(status)).toContain(code);
        expect(() => encodeURI(details)).not.toThrow();
        expect(Buffer.byteLength(details)).toBeLessThanOrEqual(4096);
      },
    ),
  );
});

test('toGrpc() answers RESOURCE_EXHAUSTED and names the path when the disk is full', () => {
  const full = Object.assign(new Error("ENOSPC: no space left on device, write '/var/lib/berth/x'"), { code: 'ENOSPC' });
  expect(toGrpc(full)).toEqual({ code: status.RESOURCE_EXHAUSTED, details: "ENOSPC: no space left on device, write '/var/lib/berth/x'" });
});
