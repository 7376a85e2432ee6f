import { expect, test } from 'vitest';
import { amd64Variants, formatPlatform, hostPlatform, platformRank } from '../../../storage/platform.ts';

const V2 = ['cx16', 'lahf_lm', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3'];
const V3 = [...V2, 'abm', 'avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'movbe', 'xsave'];

test('amd64Variants() goes as far as the processor has all flags of a level', () => {
  expect(amd64Variants(new Set())).toEqual(['v1', '']);
  expect(amd64Variants(new Set(V2))).toEqual(['v2', 'v1', '']);
  expect(amd64Variants(new Set(V3.filter((flag) => flag !== 'movbe')))).toEqual(['v2', 'v1', '']);
  expect(amd64Variants(new Set(V3))).toEqual(['v3', 'v2', 'v1', '']);
});

test('hostPlatform() runs what names no variant', () => {
  const host = hostPlatform();
  expect(host.variants).toContain('');
  expect(platformRank({ os: 'linux', architecture: host.architecture, variant: undefined }, host)).toBe(host.variants.length - 1);
  expect(platformRank({ os: 'windows', architecture: host.architecture, variant: undefined }, host)).toBeUndefined();
});

test('formatPlatform() tells the variant of arm', () => {
  expect(formatPlatform({ os: 'linux', architecture: 'arm', variants: ['v7', ''] })).toBe('linux/arm/v7');
  expect(formatPlatform({ os: 'linux', architecture: 'amd64', variants: ['v3', ''] })).toBe('linux/amd64');
});
