import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { expect, test } from 'vitest';

const root = resolve(import.meta.dirname, '../..');

/**
 * The picture of ARCHITECTURE.md: area → areas whose values it may import. `import type` is free: it is erased. Files
 * right in server/ are the area `server`: they wire the rest and are imported by nobody below, but for `tools`.
 */
const below: Record<string, readonly string[]> = {
  base: [],
  proto: [],
  storage: ['base'],
  cni: ['base'],
  conmon: ['base'],
  'server/config': ['base', 'server/oci'],
  'server/oci': ['base', 'proto', 'tools'],
  'server/metrics': ['base', 'tools'],
  'server/stream': ['base', 'tools'],
  'server/container': ['base', 'proto', 'tools', 'server/oci', 'storage', 'conmon'],
  'server/sandbox': ['base', 'proto', 'tools', 'server/oci', 'storage', 'conmon', 'cni', 'server/container'],
  'server/rpc': ['base', 'proto', 'tools', 'server/oci', 'server/sandbox', 'server/container', 'server/stream', 'storage'],
  'server/cli': ['base', 'proto', 'server/config'],
  tools: ['base'],
  server: [
    'base',
    'proto',
    'tools',
    'storage',
    'cni',
    'conmon',
    'server/config',
    'server/oci',
    'server/metrics',
    'server/stream',
    'server/container',
    'server/sandbox',
    'server/rpc',
    'server/cli',
  ],
};

/** Files of server/ that stand on base alone, for everything in server/ to use. */
const tools = new Set(['parts.ts', 'records.ts', 'creation.ts', 'fingerprint.ts'].map((name) => `server/${name}`));

/** Folders that are entered by one file. */
const doors = new Set(['storage', 'cni', 'conmon']);

function area(file: string): string {
  if (tools.has(file)) return 'tools';
  const [top = '', sub = ''] = file.split('/');
  return top === 'server' && !sub.endsWith('.ts') ? `server/${sub}` : top;
}

function valueImports(source: string): string[] {
  const fromClauses = source.matchAll(/^(?:import|export)(?! type\b)[^'";]*?from\s+['"]([^'"]+)['"]/gm);
  const others = source.matchAll(/\bimport\s*\(?\s*['"]([^'"]+)['"]/g);
  return [...fromClauses, ...others].map(([, specifier = '']) => specifier);
}

function sourceFiles(folder: string): string[] {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name));
}

function targetsOf(file: string): string[] {
  return valueImports(readFileSync(join(root, file), 'utf8'))
    .filter((specifier) => specifier.startsWith('.') || specifier.startsWith('#base/'))
    .map((specifier) => (specifier.startsWith('#base/') ? `base/${specifier.slice(6)}` : relative(root, resolve(root, dirname(file), specifier))));
}

const files = ['base', 'proto', 'storage', 'cni', 'conmon', 'server'].flatMap(sourceFiles);
const edges = files.flatMap((file) => targetsOf(file).map((target) => ({ file, target, from: area(file), to: area(target) })));
const named = (wrong: typeof edges): string[] => wrong.map(({ file, target }) => `${file} -> ${target}`);

test('values are imported downwards only', () => {
  const wrong = edges.filter(({ target, from, to }) => to !== from && target !== 'package.json' && below[from]?.includes(to) !== true);
  expect(named(wrong)).toEqual([]);
});

test('folders with a door are entered by it only', () => {
  expect(named(edges.filter(({ target, from, to }) => to !== from && doors.has(to) && target !== `${to}/${to}.ts`))).toEqual([]);
});

test('only the daemon and its commands load the proto descriptor; the others use its constants', () => {
  expect(named(edges.filter(({ target, from }) => target === 'proto/load.ts' && from !== 'server' && from !== 'server/cli'))).toEqual([]);
});

test('every area is in the picture', () => {
  expect([...new Set(files.map(area))].filter((name) => below[name] === undefined)).toEqual([]);
});
