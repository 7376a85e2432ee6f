import { expect, test } from 'vitest';
import { allowedAnnotations } from '../../../../server/oci/annotations.ts';

const annotations = { 'run.oci.keep_original_groups': '1', 'io.katacontainers.config': 'x', 'org.systemd.property.ExecStartPre': "['/bin/sh']" };

test.each([
  ['nothing', [], []],
  ['whole names', ['io.katacontainers.config', 'io.katacontainers'], ['io.katacontainers.config']],
  ['beginnings', ['run.oci.*'], ['run.oci.keep_original_groups']],
])('allowedAnnotations() lets %s through', (_what, allowed, names) => {
  expect(Object.keys(allowedAnnotations(annotations, allowed))).toEqual(names);
});

test('allowedAnnotations() never lets a systemd property through (CVE-2024-3154)', () => {
  expect(allowedAnnotations(annotations, ['*', 'org.systemd.*', 'org.systemd.property.ExecStartPre'])).toEqual({
    'run.oci.keep_original_groups': '1',
    'io.katacontainers.config': 'x',
  });
});
