import { expect, test } from 'vitest';
import { Timelines } from '../../../../server/sandbox/timeline.ts';

const entry = (step: string) => ({ at: 1, step, ms: 2 });

test('Timelines keeps the first entries of a pod and the last, and goes on with what a record has kept', () => {
  const timelines = new Timelines();
  timelines.begin('a', 'default/web', [entry('kept')]);
  for (let index = 0; index < 100; index += 1) timelines.add('a', entry(String(index)));
  timelines.add('unknown', entry('x'));
  const found = timelines.get('a');
  expect(found).toMatchObject({ id: 'a', pod: 'default/web' });
  expect(found?.entries.map(({ step }) => step)).toEqual([
    'kept',
    ...Array.from({ length: 29 }, (_, index) => String(index)),
    ...Array.from({ length: 30 }, (_, index) => String(70 + index)),
  ]);
  expect(timelines.get('unknown')).toBeUndefined();
});

test('Timelines keeps the pods seen last', () => {
  const timelines = new Timelines();
  for (let index = 0; index < 1_001; index += 1) timelines.begin(`pod${index}`, 'default/x');
  expect(timelines.get('pod0')).toBeUndefined();
  expect(timelines.all()).toHaveLength(1_000);
  expect(timelines.all().at(-1)?.id).toBe('pod1000');
});
