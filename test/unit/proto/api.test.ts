import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import protobuf from 'protobufjs';
import { expect, test } from 'vitest';
import { generate } from '../../../proto/generate.ts';
import descriptor from '../../fixtures/cri-v1.descriptor.json' with { type: 'json' };

const proto = join(import.meta.dirname, '../../../proto');
const source = readFileSync(join(proto, 'api.proto'), 'utf8');
const { json, types } = generate(source);

/** Everything that decides about the wire, one line each. */
function facts(root: protobuf.Root): string[] {
  root.resolveAll();
  const scope = root.lookup('runtime.v1');
  if (!(scope instanceof protobuf.Namespace)) throw new Error('package runtime.v1 not found');
  return scope.nestedArray.flatMap(factsOf);
}

function factsOf(item: protobuf.ReflectionObject): string[] {
  if (item instanceof protobuf.Service) {
    return item.methodsArray.map(
      (method) =>
        `rpc ${item.name}.${method.name}(${streamed(method.requestStream)}${method.requestType}) ${streamed(method.responseStream)}${method.responseType}`,
    );
  }
  if (item instanceof protobuf.Enum) return Object.entries(item.values).map(([name, value]) => `enum ${item.fullName}.${name} = ${value}`);
  if (!(item instanceof protobuf.Type)) throw new Error(`${item.fullName}: of no kind that CRI v1 has`);
  return [
    `message ${item.fullName}`,
    ...item.oneofsArray.map((oneof) => `oneof ${oneof.fullName}`),
    ...item.fieldsArray.map(factOf),
    ...item.nestedArray.flatMap(factsOf),
  ];
}

const streamed = (stream: boolean | undefined): string => (stream === true ? 'stream ' : '');

function factOf(field: protobuf.Field): string {
  const type =
    field instanceof protobuf.MapField
      ? `map<${field.keyType}, ${field.type}>`
      : `${field.repeated ? `repeated${field.packed ? ' packed' : ''} ` : ''}${field.type}`;
  return `field ${field.fullName} = ${field.id}: ${type}`;
}

test('api.proto says what CRI v1 says, and nothing more', () => {
  const ours = facts(protobuf.parse(source, { keepCase: true }).root);
  const theirs = facts(protobuf.Root.fromJSON(descriptor as protobuf.INamespace));
  expect(theirs.filter((fact) => fact.startsWith('rpc '))).toHaveLength(43);
  expect(ours).toEqual(theirs);
});

test('cri.json says what CRI v1 says', () => {
  expect(facts(protobuf.Root.fromJSON(JSON.parse(json)))).toEqual(facts(protobuf.Root.fromJSON(descriptor as protobuf.INamespace)));
});

test.each([
  ['cri.ts', types],
  ['cri.json', json],
])('%s is what generate() makes of api.proto', (name, expected) => {
  expect(readFileSync(join(proto, name), 'utf8') === expected, 'run: npm run proto').toBe(true);
});

test('api.proto explains every service, RPC, message and enum', () => {
  const { root } = protobuf.parse(source, { keepCase: true, alternateCommentMode: true, preferTrailingComment: false });
  const scope = root.lookup('runtime.v1') as protobuf.Namespace;
  const items = scope.nestedArray.flatMap((item) => [
    item,
    ...(item instanceof protobuf.Service ? item.methodsArray : item instanceof protobuf.Type ? item.nestedArray : []),
  ]);
  expect(items.flatMap((item) => (item.comment === null ? [item.fullName] : []))).toEqual([]);
});

test('generate() carries the comments into the types', () => {
  expect(types).toContain('  /** Absolute path, already made; container logs lie below it. Empty for no logs. */\n  readonly log_directory: string;');
  expect(types).toMatch(/\/\*\*\n {3}\* Makes a pod's surroundings[^/]*\*\/\n {2}readonly RunPodSandbox: /);
});

test('generate() refuses a proto of another package', () => {
  expect(() => generate('syntax = "proto3"; package other;')).toThrow('runtime.v1');
});
