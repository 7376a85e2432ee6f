import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { formatEffective, formatSample } from '../../../../server/cli/config-text.ts';
import { defaults, defaultValues, type EffectiveValue, effectiveConfig, parseConfig, referenceHost } from '../../../../server/config.ts';

const sample = readFileSync(join(import.meta.dirname, '../../../../contrib/berth.conf'), 'utf8');

test('contrib/berth.conf is what formatSample() writes', () => {
  expect(sample).toBe(formatSample(defaultValues()));
});

test('contrib/berth.conf says what the defaults are', () => {
  const uncommented = sample.replaceAll(/^#(?=\S)/gm, '');
  expect(parseConfig([{ path: 'sample', text: uncommented }], { host: referenceHost })).toEqual(defaults);
  expect(parseConfig([{ path: 'sample', text: sample }], { host: referenceHost })).toEqual(defaults);
});

test('formatEffective() reads back as the same configuration', () => {
  const overrides = { 'runtime.default_env': 'A=1,B=x y', 'image.pinned_images': 'a*,*b*', 'image.pause_image': 'x # y;z' };
  const text = formatEffective(effectiveConfig({ overrides }));
  expect(text).toContain('pause_image = "x # y;z"  # command line\n');
  expect(parseConfig([{ path: 'text', text }])).toEqual(parseConfig([], { overrides }));
});

test('formatEffective() writes items with commas one a line', () => {
  const value: EffectiveValue = { section: 'runtime', key: 'default_env', items: ['A=1,2', 'B=#'], list: true, source: 'x:1', doc: '' };
  const text = formatEffective([value]);
  expect(text).toBe('[runtime]\ndefault_env[] = A=1,2  # x:1\ndefault_env[] = "B=#"  # x:1\n');
  expect(parseConfig([{ path: 'text', text }], { host: referenceHost }).runtime.defaultEnv).toEqual(['A=1,2', 'B=#']);
});
