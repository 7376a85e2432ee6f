import { expect, test } from 'vitest';
import { silentLog } from '#base/log.ts';
import { createNotifier, startWatchdog } from '../../../server/notify.ts';

test('createNotifier() does nothing without a socket, and does not throw when nobody listens', () => {
  createNotifier(undefined, silentLog).ready();
  createNotifier('/nonexistent/notify', silentLog).ready();
});

test('startWatchdog() says that the daemon is alive after each check that succeeds', async () => {
  const alive = Promise.withResolvers<void>();
  const order: string[] = [];
  const check = async (): Promise<void> => void order.push('check');
  const notify = { alive: () => (order.push('alive') === 4 ? alive.resolve() : undefined) };
  await using _watchdog = startWatchdog({ intervalMs: 20, check, notify, log: silentLog });
  await alive.promise;
  expect(order).toEqual(['check', 'alive', 'check', 'alive']);
});

test('startWatchdog() is silent when checks fail or never end, and goes on asking', async () => {
  const third = Promise.withResolvers<void>();
  let checks = 0;
  let pings = 0;
  const check = (): Promise<void> => {
    checks += 1;
    if (checks === 3) third.resolve();
    return checks === 1 ? Promise.reject(new Error('refused')) : new Promise(() => {});
  };
  const notify = {
    alive: () => {
      pings += 1;
    },
  };
  await using _watchdog = startWatchdog({ intervalMs: 20, check, notify, log: silentLog });
  await third.promise;
  expect(pings).toBe(0);
});

test('startWatchdog() tells a check that its time is over', async () => {
  const aborted = Promise.withResolvers<unknown>();
  const check = (signal: AbortSignal): Promise<void> =>
    new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        aborted.resolve(signal.reason);
        reject(signal.reason);
      });
    });
  await using _watchdog = startWatchdog({ intervalMs: 20, check, notify: { alive: () => {} }, log: silentLog });
  expect(await aborted.promise).toMatchObject({ name: 'TimeoutError' });
});
