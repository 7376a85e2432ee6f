import { expect, test } from 'vitest';
import { orAbandoned } from '#base/abort.ts';

const never = new Promise<never>(() => {});

test('orAbandoned() gives what the work does, before and after the signal', async () => {
  const controller = new AbortController();
  expect(await orAbandoned(Promise.resolve(1), controller.signal, 60_000)).toBe(1);
  const dying = Promise.withResolvers<number>();
  const result = orAbandoned(dying.promise, controller.signal, 60_000);
  controller.abort(new Error('too slow'));
  dying.reject(new Error('killed'));
  await expect(result).rejects.toThrow('killed');
});

test.each(['before', 'after'])('orAbandoned() gives work up that does not end, begun %s the signal', async (when) => {
  const controller = new AbortController();
  const fire = (): void => controller.abort(new Error('too slow'));
  if (when === 'after') fire();
  const result = orAbandoned(never, controller.signal, 5);
  fire();
  await expect(result).rejects.toThrow('too slow');
});
