import { expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { type Ending, endingStatus, endingText } from '../../../../server/stream/exit-status.ts';

test.each<[string, Ending, object, string]>([
  ['success', { exitCode: 0 }, { metadata: {}, status: 'Success' }, ''],
  ['an attach', { exitCode: undefined }, { metadata: {}, status: 'Success' }, ''],
  [
    'an exit code',
    { exitCode: 137 },
    {
      metadata: {},
      status: 'Failure',
      message: 'command terminated with exit code 137',
      reason: 'NonZeroExitCode',
      details: { causes: [{ reason: 'ExitCode', message: '137' }] },
    },
    'command terminated with exit code 137',
  ],
  [
    'what the caller can act on',
    { err: new CriError('notFound', 'container "x" does not exist') },
    { metadata: {}, status: 'Failure', message: 'container "x" does not exist', reason: 'NotFound', code: 404 },
    'container "x" does not exist',
  ],
  [
    'anything else',
    { err: new Error('spawn crun', { cause: new Error('EAGAIN') }) },
    { metadata: {}, status: 'Failure', message: 'spawn crun: EAGAIN', reason: 'InternalError', code: 500 },
    'spawn crun: EAGAIN',
  ],
])('the ending of a session: %s', (_what, ending, status, text) => {
  expect(JSON.parse(endingStatus(ending))).toEqual(status);
  expect(endingText(ending)).toBe(text);
});
