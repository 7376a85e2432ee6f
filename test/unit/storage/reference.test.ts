import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CriError } from '#base/errors.ts';
import { atRegistry, formatReference, parseReference, taggedName } from '../../../storage/reference.ts';

const digest = `sha256:${'ab'.repeat(32)}`;

describe('parseReference()', () => {
  test.each([
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['user/app', 'docker.io/user/app:latest'],
    ['index.docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app', 'localhost:5000/app:latest'],
    ['127.0.0.1:5000/a/b/c:v1', '127.0.0.1:5000/a/b/c:v1'],
    ['[::1]:5000/a:v1', '[::1]:5000/a:v1'],
    ['registry.k8s.io/pause:3.9', 'registry.k8s.io/pause:3.9'],
    [`registry.k8s.io/pause@${digest}`, `registry.k8s.io/pause@${digest}`],
    [`registry.k8s.io/pause:3.9@${digest}`, `registry.k8s.io/pause:3.9@${digest}`],
    ['Host/app', 'Host/app:latest'],
    ['a__b/c-d/e.f', 'docker.io/a__b/c-d/e.f:latest'],
  ])('reads %s as %s', (text, whole) => {
    expect(formatReference(parseReference(text))).toBe(whole);
  });

  test.each([
    ['', 'is empty'],
    ['Busybox', 'upper-case'],
    ['busybox:', 'bad tag'],
    ['busybox:-x', 'bad tag'],
    [`busybox:${'a'.repeat(129)}`, 'bad tag'],
    ['busybox@sha256:12', 'sha256:<64 hex digits>'],
    [`busybox@sha512:${'ab'.repeat(64)}`, 'sha256:<64 hex digits>'],
    ['a//b', 'bad repository'],
    ['a/../b', 'bad repository'],
    ['-a.b/c', 'bad registry'],
    ['a'.repeat(256), 'more than 255'],
    ['ab'.repeat(32), 'is an image id'],
    ['a b', 'bad repository'],
    ['user:pass@host/app', 'sha256:<64 hex digits>'],
  ])('refuses %j, naming it', (text, why) => {
    expect(() => parseReference(text)).toThrow(why);
    expect(() => parseReference(text)).toThrow(CriError);
  });

  test('is stable: what it wrote it reads alike, and it throws nothing but CriError', () => {
    const part = fc.stringMatching(/^[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?$/);
    const name = fc.tuple(fc.option(fc.constantFrom('localhost', 'a.b:80', 'docker.io')), fc.array(part, { minLength: 1, maxLength: 3 }), fc.option(part));
    fc.assert(
      fc.property(name, ([host, path, tag]) => {
        const whole = formatReference(parseReference(`${host === null ? '' : `${host}/`}${path.join('/')}${tag === null ? '' : `:${tag}`}`));
        expect(formatReference(parseReference(whole))).toBe(whole);
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'aA0:/@.-_ %?#\n') }), (text) => {
        try {
          const { registry, repository } = parseReference(text);
          expect(new URL(`https://${registry}/v2/${repository}`).pathname).toBe(`/v2/${repository}`);
        } catch (err) {
          expect(err).toBeInstanceOf(CriError);
        }
      }),
    );
  });
});

test('taggedName() is undefined where a digest was asked for', () => {
  expect(taggedName(parseReference('a/b:c'))).toBe('docker.io/a/b:c');
  expect(taggedName(parseReference(`a/b:c@${digest}`))).toBeUndefined();
});

test('atRegistry() takes library/ away from a short name, and adds it back for docker.io', () => {
  const short = parseReference('busybox:1');
  expect(formatReference(atRegistry(short, 'quay.io'))).toBe('quay.io/busybox:1');
  expect(formatReference(atRegistry(short, 'docker.io'))).toBe('docker.io/library/busybox:1');
});
