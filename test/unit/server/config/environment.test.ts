import { expect, test } from 'vitest';
import { readEnvironment } from '../../../../server/config/environment.ts';

test('readEnvironment() takes the variables of proxies, and no others', () => {
  const env = { HTTPS_PROXY: 'http://p:1', no_proxy: 'a', HTTP_PROXY: '', SECRET: 'x' };
  expect(readEnvironment(env).proxy).toEqual({ HTTPS_PROXY: 'http://p:1', no_proxy: 'a' });
});

test('readEnvironment() takes only a watchdog that is meant for this process', () => {
  const env = { NOTIFY_SOCKET: '/n', WATCHDOG_USEC: '60000000', WATCHDOG_PID: '7', PATH: '/a::b:/c' };
  expect(readEnvironment(env, 7)).toEqual({ notifySocket: '/n', watchdogMs: 60_000, proxy: {}, path: ['/a', '/c'] });
  expect(readEnvironment(env, 8).watchdogMs).toBeUndefined();
  expect(readEnvironment({ NOTIFY_SOCKET: '', WATCHDOG_USEC: 'x' })).toMatchObject({ notifySocket: undefined, watchdogMs: undefined });
});
