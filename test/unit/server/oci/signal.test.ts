import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { Signal } from '../../../../proto/cri.ts';
import { criSignal, criSignalNumber, parseSignal, stopSignalNumber } from '../../../../server/oci/signal.ts';

describe('criSignalNumber()', () => {
  test('knows every signal of the API', () => {
    for (const [key, signal] of Object.entries(Signal)) {
      if (signal === Signal.SIGNAL_RUNTIME_DEFAULT) continue;
      expect(criSignalNumber(signal), key).toBeTypeOf('number');
    }
  });

  test.each([
    [Signal.SIGNAL_SIGTERM, 15],
    [Signal.SIGNAL_SIGCLD, 17],
    [Signal.SIGNAL_SIGRTMIN, 34],
    [Signal.SIGNAL_SIGRTMINPLUS15, 49],
    [Signal.SIGNAL_SIGRTMAXMINUS14, 50],
    [Signal.SIGNAL_SIGRTMAX, 64],
    [Signal.SIGNAL_RUNTIME_DEFAULT, undefined],
    [999, undefined],
  ])('maps %i to %s', (signal, number) => {
    expect(criSignalNumber(signal)).toBe(number);
  });
});

test.each([
  ['SIGTERM', 15],
  ['TERM', 15],
  ['sigquit', 3],
  ['9', 9],
  ['SIGRTMIN+3', 37],
  ['RTMIN', 34],
  ['SIGRTMAX-1', 63],
  ['SIGRTMAX+1', undefined],
  ['SIGRTMIN-1', undefined],
  ['SIGRTMIN+31', undefined],
  ['SIGRTMAX-99', undefined],
  ['-9', undefined],
  ['0', undefined],
  ['65', undefined],
  ['', undefined],
  ['SIGFOO', undefined],
  ['toString', undefined],
])('parseSignal() reads "%s" as %s', (text, number) => {
  expect(parseSignal(text)).toBe(number);
});

test.each([
  [Signal.SIGNAL_SIGUSR1, 'SIGQUIT', 10],
  [Signal.SIGNAL_RUNTIME_DEFAULT, 'SIGQUIT', 3],
  [Signal.SIGNAL_RUNTIME_DEFAULT, '', 15],
  [Signal.SIGNAL_RUNTIME_DEFAULT, 'nonsense', 15],
])('stopSignalNumber(%i, "%s") is %i', (requested, image, number) => {
  expect(stopSignalNumber(requested, image)).toBe(number);
});

test('criSignal() finds every number that has a name back', () => {
  for (const number of new Set(Object.values(constants.signals))) expect(criSignalNumber(criSignal(number)), String(number)).toBe(number);
  expect(criSignal(32)).toBe(Signal.SIGNAL_RUNTIME_DEFAULT);
});
