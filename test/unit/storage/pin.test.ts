import { expect, test } from 'vitest';
import { matchesPin } from '../../../storage/pin.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

test.each([
  ['registry.k8s.io/pause:3.9', 'registry.k8s.io/pause:3.9', true],
  ['registry.k8s.io/pause:3.9', ' registry.k8s.io/pause:3.9 ', true],
  ['registry.k8s.io/pause:3.9', 'registry.k8s.io/pause', false],
  ['registry.k8s.io/pause:3.9', 'registry.k8s.io/pause:3', false],
  ['registry.k8s.io/pause:3.9', 'registry.k8s.io/pause*', true],
  ['registry.k8s.io/pause:3.9', 'pause*', false],
  ['registry.k8s.io/pause:3.9', '*pause*', true],
  ['registry.k8s.io/pause:3.9', '*pause', false],
  ['registry.k8s.io/pause:3.9', '*', true],
  ['registry.k8s.io/pause:3.9', '**', true],
  ['registry.k8s.io/pause:3.9', '', false],
  ['registry.k8s.io/pause:3.9', 'NOT A NAME', false],
  ['docker.io/library/busybox:latest', 'busybox', true],
  ['docker.io/library/busybox:1', 'busybox', false],
  ['docker.io/library/busybox:1', 'index.docker.io/busybox:1', true],
  [`quay.io/a/b@${DIGEST}`, `quay.io/a/b@${DIGEST}`, true],
  [`quay.io/a/b@${DIGEST}`, `quay.io/a/b:1.0@${DIGEST}`, true],
  ['quay.io/a/b:1.0', `quay.io/a/b:1.0@${DIGEST}`, false],
])('matchesPin() of %s with %o is %o', (name, pattern, expected) => {
  expect(matchesPin(name, ['no-such-image', pattern])).toBe(expected);
});
