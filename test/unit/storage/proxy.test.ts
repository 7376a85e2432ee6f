import { describe, expect, test } from 'vitest';
import { Proxies } from '../../../storage/proxy.ts';

const HTTP_PROXY = 'http://plain.proxy:3128';
const HTTPS_PROXY = 'http://user:word@secure.proxy:3128';
const via = (url: string, env: Record<string, string>): string => new Proxies(env).of(new URL(url));

describe('Proxies', () => {
  test('take the variable of the scheme, upper case before lower case', () => {
    expect(via('http://a.com/', { HTTP_PROXY, HTTPS_PROXY })).toBe(HTTP_PROXY);
    expect(via('https://a.com/', { HTTP_PROXY, HTTPS_PROXY })).toBe(HTTPS_PROXY);
    expect(via('https://a.com/', { HTTP_PROXY })).toBe('');
    expect(via('https://a.com/', { https_proxy: 'lower:1', HTTPS_PROXY: '' })).toBe('http://lower:1');
    expect(via('https://a.com/', { https_proxy: 'lower:1', HTTPS_PROXY: 'upper:1' })).toBe('http://upper:1');
  });

  test.each([
    ['http://localhost:5000/', ''],
    ['http://127.8.0.1/', ''],
    ['http://[::1]:5000/', ''],
  ])('are not asked for %s, whatever NO_PROXY says', (url) => {
    expect(via(url, { HTTP_PROXY, NO_PROXY: '' })).toBe('');
  });

  test.each([
    ['10.0.0.0/8', 'http://10.1.2.3:5000/', true],
    ['10.0.0.0/8', 'http://11.1.2.3/', false],
    ['fd00::/8', 'http://[fd12::1]/', true],
    ['10.0.0.0/99', 'http://10.1.2.3/', false],
    ['192.168.1.7', 'http://192.168.1.7:5000/', true],
    ['192.168.1.7:5000', 'http://192.168.1.7:5000/', true],
    ['192.168.1.7:5000', 'http://192.168.1.7:5001/', false],
    ['[fd12::1]:5000', 'http://[fd12::1]:5000/', true],
    ['fd12::1', 'http://[fd12::1]:5000/', true],
    ['example.com', 'http://example.com/', true],
    ['example.com', 'http://registry.example.com/', true],
    ['example.com', 'http://badexample.com/', false],
    ['.example.com', 'http://registry.example.com/', true],
    ['.example.com', 'http://example.com/', false],
    ['*.example.com', 'http://registry.example.com/', true],
    ['registry.example.com:80', 'http://registry.example.com/', true],
    ['registry.example.com:443', 'http://registry.example.com/', false],
    ['*', 'http://anything.net/', true],
    ['.svc , .cluster.local,', 'http://registry.apps.svc/', true],
    ['EXAMPLE.com', 'http://Example.COM/', true],
  ])('with NO_PROXY=%s reach %s directly: %s', (NO_PROXY, url, direct) => {
    expect(via(url, { HTTP_PROXY, NO_PROXY })).toBe(direct ? '' : HTTP_PROXY);
  });
});
