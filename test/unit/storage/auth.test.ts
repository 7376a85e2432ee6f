import { describe, expect, test } from 'vitest';
import { callCredentials, parseAuthFile, type RegistryAuth } from '../../../storage/auth.ts';

const none: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const encode = (text: string): string => Buffer.from(text).toString('base64');

describe('callCredentials()', () => {
  test('reads user and password, plain or as auth', () => {
    expect(callCredentials({ ...none, username: 'u', password: 'p' }, 'a.com')).toEqual({ kind: 'basic', username: 'u', password: 'p' });
    expect(callCredentials({ ...none, auth: encode('u:p:q\0\0') }, 'a.com')).toEqual({ kind: 'basic', username: 'u', password: 'p:q' });
    expect(callCredentials({ ...none, identityToken: 'i' }, 'a.com')).toEqual({ kind: 'identity', token: 'i' });
    expect(callCredentials({ ...none, registryToken: 'r', username: 'u' }, 'a.com')).toEqual({ kind: 'bearer', token: 'r' });
    expect(callCredentials(none, 'a.com')).toEqual({ kind: 'none' });
    expect(callCredentials(undefined, 'a.com')).toEqual({ kind: 'none' });
  });

  test('are for the server they name only', () => {
    const auth = { ...none, username: 'u', password: 'p', serverAddress: 'https://index.docker.io/v1/' };
    expect(callCredentials(auth, 'docker.io').kind).toBe('basic');
    expect(callCredentials(auth, 'evil.com').kind).toBe('none');
  });

  test('does not quote a bad auth', () => {
    expect(() => callCredentials({ ...none, auth: encode('secret') }, 'a.com')).toThrow(/^registry credentials: auth is not base64 of user:password$/);
  });
});

describe('AuthFile', () => {
  const file = parseAuthFile(
    JSON.stringify({
      auths: {
        'a.com': { auth: encode('host:1') },
        'a.com/team': { auth: encode('team:2') },
        'a.com/team/app': { identitytoken: 'id' },
        'https://index.docker.io/v1/': { auth: encode('hub:3') },
        'b.com:5000': { username: 'plain', password: '4' },
      },
    }),
    '/auth.json',
  );
  const user = (host: string, repository: string): string => {
    const found = file.find(host, repository);
    return found.kind === 'basic' ? found.username : found.kind;
  };

  test('find() takes the longest path that covers the repository', () => {
    expect(user('a.com', 'other')).toBe('host');
    expect(user('a.com', 'teams')).toBe('host');
    expect(user('a.com', 'team/x/y')).toBe('team');
    expect(user('a.com', 'team/app')).toBe('identity');
    expect(user('docker.io', 'library/busybox')).toBe('hub');
    expect(user('b.com:5000', 'x')).toBe('plain');
    expect(user('b.com', 'x')).toBe('none');
  });

  test('parseAuthFile() names the file and quotes nothing of it', () => {
    expect(() => parseAuthFile('{"auths": {"a.com": {"auth": "c2VjcmV0', '/auth.json')).toThrow(/^\/auth.json: is not JSON$/);
    expect(parseAuthFile('[]', '/auth.json').find('a.com', 'x')).toEqual({ kind: 'none' });
  });
});
